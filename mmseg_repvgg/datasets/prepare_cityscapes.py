"""Cityscapes, from what is downloaded to what a training reads.

Layout and label table are those of https://github.com/mcordts/cityscapesScripts.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ExtraError, ImageError
from ..special_files import refuse_special_file
from .cityscapes_labels import IGNORE_INDEX
from .files import (
    files_in,
    map_labels,
    png_size,
    put_labels,
    read_labels,
    require_usual_size,
)
from .preparing import Outcome, Pair, Report, alone_in, in_parallel, stoppable
from .unpacking import unpack

EXPECTED: Final[Mapping[str, int]] = MappingProxyType(
    {'train': 2975, 'val': 500, 'test': 1525}
)
"""Images of each split, as published."""

ARCHIVES: Final[Mapping[str, str]] = MappingProxyType(
    {
        'leftImg8bit': 'leftImg8bit_trainvaltest.zip',
        'gtFine': 'gtFine_trainvaltest.zip',
    }
)
"""The zip file of each folder."""

_IMAGE: Final = '_leftImg8bit.png'
_IDS: Final = '_gtFine_labelIds.png'
_POLYGONS: Final = '_gtFine_polygons.json'
_TRAIN_IDS: Final = '_gtFine_labelTrainIds.png'


def prepare_cityscapes(
    root: str | os.PathLike[str], *, check: bool = False, jobs: int | None = None
) -> Report:
    """Unpack what is not unpacked, check every file, and make the ``labelTrainIds``.

    They are mapped from the ``labelIds``, or drawn from the polygons where there are no
    ``labelIds``. Of every image the start and the end are looked at, of every label map
    all of it. What is broken is put into the report, and the rest is done all the same.
    What is done already is left alone.

    Args:
        root: The folder with ``leftImg8bit`` and ``gtFine``, or with the zip files.
        check: Write nothing, only report.
        jobs: How many files at a time; by default one a core.

    Raises:
        DataError: If there is nothing of Cityscapes, a zip file is corrupt or does not
            fit on the disk, or another run is at work there.
        ExtraError: If ``cityscapesscripts`` is not installed.
        WriteError: If a file cannot be written.
    """
    root = Path(root)
    nothing = DataError(f'{root} holds nothing of Cityscapes. {_advice(root)}')
    if not any((root / name).exists() for item in ARCHIVES.items() for name in item):
        raise nothing
    labels = _official('helpers.labels').labels
    # Of the license plate, which no image holds, both are -1.
    table = {label.id: label.trainId for label in labels if label.id >= 0}
    due = []
    with stoppable(), alone_in(root, check):
        for folder, name in ARCHIVES.items():
            if (root / name).is_file():
                total, lacking = unpack(root / name, root, folder, check=check, jobs=jobs)
                if lacking and check:
                    due.append(f'{name}: {lacking} of {total} files are to be unpacked')
        pairs = _pairs(root)
        if not pairs and not due:
            raise nothing
        work = functools.partial(_prepare, table=table, check=check)
        outcomes = in_parallel(work, pairs, 'check' if check else 'prepare', jobs)
    return Report(
        expected=EXPECTED,
        needed=('train', 'val'),
        outcomes=outcomes,
        check=check,
        advice=_advice(root),
        due=due,
        notes=_notes(outcomes),
    )


def _advice(root: Path) -> str:
    absent = [name for name in ARCHIVES.values() if not (root / name).is_file()]
    if not absent:
        return (
            f'Run this without --check: it unpacks from the zip files in {root} what is '
            'missing or broken. What is not sound in them either, download again'
        )
    return (
        f'Download {" and ".join(absent)} from https://www.cityscapes-dataset.com (free '
        f"registration), or by cityscapesscripts' csDownload -d {root} "
        f'{" ".join(absent)}, leave it packed in {root} and run this again: it unpacks '
        'what is missing or broken'
    )


def _official(module: str) -> Any:
    """A module of the official package."""
    try:
        return importlib.import_module(f'cityscapesscripts.{module}')
    except ImportError as error:
        raise ExtraError(
            f'the label table of Cityscapes is in cityscapesscripts, which is not there '
            f"({error}): pip install 'mmseg_repvgg[cityscapes]'"
        ) from error


def _pairs(root: Path) -> list[Pair]:
    pairs = []
    for split in EXPECTED:
        images = files_in(root / 'leftImg8bit' / split, _IMAGE)
        labels: dict[str, Path] = {}
        # Each kind is put over the one before it, which is taken where it is missing.
        for kind in (_TRAIN_IDS, _POLYGONS, _IDS):
            labels |= files_in(root / 'gtFine' / split, kind)
        pairs += [
            Pair(split, images.get(name), labels.get(name))
            for name in sorted({*images, *labels})
        ]
    return pairs


def _prepare(pair: Pair, table: Mapping[int, int], check: bool) -> Outcome:
    problems: list[str] = []
    size = labels = None
    try:
        size = png_size(pair.image) if pair.image else None
    except ImageError as error:
        problems.append(str(error))
    try:
        labels = _read_train_ids(pair.label, table) if pair.label else None
    except ImageError as error:
        problems.append(str(error))
    if size and labels is not None and labels.shape != size:
        problems.append(
            f'{pair.label} is of {labels.shape} (height, width), but its image '
            f'{pair.image} of {size}'
        )
        labels = None
    if pair.label is None or labels is None:
        return Outcome(pair, problems=tuple(problems))
    name = pair.label.name.rsplit('_', 1)[0] + '_labelTrainIds.png'
    state = put_labels(pair.label.with_name(name), labels, check)
    void = bool((labels == IGNORE_INDEX).all())
    return Outcome(pair, state, tuple(problems), void)


def _read_train_ids(path: Path, table: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """The label map from whichever kind of file there is."""
    if path.name.endswith(_POLYGONS):
        return _draw_train_ids(path)
    if path.name.endswith(_TRAIN_IDS):
        table = {value: value for value in table.values()}
    return map_labels(read_labels(path), table, path)


def _draw_train_ids(path: Path) -> npt.NDArray[np.uint8]:
    """The label map of a file of polygons, as the official tool draws it."""
    names = _official('helpers.labels').name2label
    annotation = _official('helpers.annotation').Annotation()
    draw = _official('preparation.json2labelImg').createLabelImage
    try:
        refuse_special_file(path)
        annotation.fromJsonText(path.read_text())
        require_usual_size(path, annotation.imgHeight, annotation.imgWidth)
        used = {item.label for item in annotation.objects if not item.deleted}
        # Groups are known too; at any other name the official function ends the process.
        unknown = sorted(used - {*names, *(f'{name}group' for name in names)})
        if unknown:
            raise ValueError(f'unknown labels {unknown}')
        return np.array(draw(annotation, 'trainIds'))
    except ImageError:
        raise
    # What json, cityscapesscripts and Pillow raise depends on the content of the file.
    except Exception as error:
        raise ImageError(f'{path} is no sound file of polygons: {error!r}') from error


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    test = [o for o in outcomes if o.pair.split == 'test' and o.state is not None]
    if test and all(outcome.void for outcome in test):
        return ['test: its labels are dummies, as published; measure on val']
    return []
