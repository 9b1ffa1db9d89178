"""Prepare Cityscapes for training, from the downloaded zip files or folders.

The layout and the training ids are those of
https://github.com/mcordts/cityscapesScripts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..errors import DataError
from .archive import unpack
from .png_files import files_in, map_labels, read_labels, update_labels, verify_png
from .preparation import Pair, Report, pair_files, prepare_pairs, require_same_size

EXPECTED: Final[Mapping[str, int]] = MappingProxyType(
    {'train': 2975, 'val': 500, 'test': 1525}
)
"""Number of images in each split, as published."""

ARCHIVES: Final[Mapping[str, str]] = MappingProxyType(
    {
        'leftImg8bit': 'leftImg8bit_trainvaltest.zip',
        'gtFine': 'gtFine_trainvaltest.zip',
    }
)
"""The zip file of each folder."""

_VOID: Final = (255,)
TRAIN_IDS: Final = (
    *_VOID * 7,  # unlabeled to ground
    *(0, 1),  # road, sidewalk
    *_VOID * 2,  # parking, rail track
    *(2, 3, 4),  # building, wall, fence
    *_VOID * 3,  # guard rail, bridge, tunnel
    5,  # pole
    *_VOID,  # polegroup
    *range(6, 16),  # traffic light to bus
    *_VOID * 2,  # caravan, trailer
    *(16, 17, 18),  # train, motorcycle, bicycle
)
"""The training id of each label id, from ``cityscapesscripts/helpers/labels.py``."""

_IDS: Final = '_gtFine_labelIds.png'
_TRAIN_IDS: Final = '_gtFine_labelTrainIds.png'


def prepare_cityscapes(
    root: str | os.PathLike[str], *, check: bool = False, jobs: int | None = None
) -> Report:
    """Unpack Cityscapes, verify its files, and write ``labelTrainIds`` images.

    The checksums of all images and label maps are verified. Broken files are reported
    and do not stop the others; sound results are kept.

    Args:
        root: The folder with ``leftImg8bit`` and ``gtFine``, or with their zip files.
        check: Write nothing, only report.
        jobs: Number of threads, by default one per core.

    Raises:
        DataError: If there is no Cityscapes in the folder, a zip file is corrupt, or its
            files do not fit on the disk.
        WriteError: If a file cannot be written.
    """
    root = Path(root)
    advice = (
        f'Download {" and ".join(ARCHIVES.values())} from '
        'https://www.cityscapes-dataset.com (free registration), or by csDownload of '
        f'cityscapesscripts, into {root}, and run this again: it unpacks what is missing '
        'or broken'
    )
    report = Report(EXPECTED, ('train', 'val'), check, advice)
    for folder, name in ARCHIVES.items():
        if (root / name).exists():
            changed = unpack(root / name, root, folder, check, jobs)
            report.packed += changed if check else 0
    pairs = [
        pair
        for split in EXPECTED
        for pair in pair_files(
            split,
            files_in(root / 'leftImg8bit' / split, '_leftImg8bit.png'),
            # Training ids stand in where the label ids are missing.
            files_in(root / 'gtFine' / split, _TRAIN_IDS)
            | files_in(root / 'gtFine' / split, _IDS),
        )
    ]
    if not pairs and not report.packed:
        raise DataError(f'{root} does not hold Cityscapes. {advice}')

    return prepare_pairs(pairs, lambda pair: _convert(pair, check), report, jobs)


def _convert(pair: Pair, check: bool) -> bool:
    assert pair.image is not None
    size = verify_png(pair.image)
    if pair.label is None:
        return False
    if pair.label.name.endswith(_TRAIN_IDS):
        table = {value: value for value in TRAIN_IDS}
    else:
        table = dict(enumerate(TRAIN_IDS))
    labels = map_labels(read_labels(pair.label), table, pair.label)
    require_same_size(pair, size, labels.shape)
    name = pair.label.name.removesuffix(_IDS).removesuffix(_TRAIN_IDS) + _TRAIN_IDS
    return update_labels(pair.label.with_name(name), labels, check)
