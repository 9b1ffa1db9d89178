"""Prepare Cityscapes for training, from the downloaded zip files or folders.

The layout and the training ids are those of
https://github.com/mcordts/cityscapesScripts.
"""

import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from mmseg.datasets import CityscapesDataset

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.special_files import refuse_special_file

from ..errors import DataError, UserError
from .png_files import files_in, update_labels, verify_png
from .preparation import Report, in_parallel, prepare

EXPECTED = {'train': 2975, 'val': 500, 'test': 1525}
"""Number of images in each split, as published."""

ARCHIVES = {
    'leftImg8bit': 'leftImg8bit_trainvaltest.zip',
    'gtFine': 'gtFine_trainvaltest.zip',
}
"""The zip file of each folder."""

TRAIN_IDS = (
    *[255] * 7,  # unlabeled to ground
    *(0, 1),  # road, sidewalk
    *(255, 255),  # parking, rail track
    *(2, 3, 4),  # building, wall, fence
    *(255, 255, 255),  # guard rail, bridge, tunnel
    *(5, 255),  # pole, polegroup
    *range(6, 16),  # traffic light to bus
    *(255, 255),  # caravan, trailer
    *(16, 17, 18),  # train, motorcycle, bicycle
)
"""The training id of each label id, from ``cityscapesscripts/helpers/labels.py``."""

_IDS = '_gtFine_labelIds.png'
_TRAIN_IDS = '_gtFine_labelTrainIds.png'
# zipfile raises ValueError for impossible names and RuntimeError for encryption.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


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
        DataError: If there is no Cityscapes in the folder, or a zip file is corrupt.
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
            changed = _unpack(root / name, folder, check, jobs)
            report.packed += changed if check else 0
    files = {
        split: (
            files_in(root / 'leftImg8bit' / split, '_leftImg8bit.png'),
            # Training ids stand in where the label ids are missing.
            files_in(root / 'gtFine' / split, _TRAIN_IDS)
            | files_in(root / 'gtFine' / split, _IDS),
        )
        for split in EXPECTED
    }
    if not report.packed and not any(map(any, files.values())):
        raise DataError(f'{root} does not hold Cityscapes. {advice}')

    def convert(split: str, image: Path, label: Path | None) -> bool:
        if label is None:
            verify_png(image)
            return False
        if label.name.endswith(_TRAIN_IDS):
            return update_labels(label, image, label, {i: i for i in TRAIN_IDS}, check)
        path = label.with_name(label.name.removesuffix(_IDS) + _TRAIN_IDS)
        return update_labels(path, image, label, dict(enumerate(TRAIN_IDS)), check)

    return prepare(report, files, convert, jobs)


def label_ids(classes: Sequence[str]) -> list[int] | None:
    """Return the label id of each class; None unless the classes are Cityscapes'."""
    if tuple(classes) != CityscapesDataset.METAINFO['classes']:
        return None
    return [TRAIN_IDS.index(label) for label in range(len(classes))]


def _unpack(archive: Path, folder: str, check: bool, jobs: int | None) -> int:
    """Unpack the files of a folder that are missing or differ; return their number."""
    # Neither a name that leads out of the folder matches nor that of a hidden file.
    pattern = re.compile(rf'{folder}(/[^/\\.][^/\\]*)+')
    try:
        refuse_special_file(archive)
        with zipfile.ZipFile(archive) as opened:

            def restore(member: zipfile.ZipInfo) -> bool:
                path = archive.parent / member.filename
                changed = not _is_unpacked(member, path)
                if changed and not check:
                    write_atomically(path, opened.read(member))
                return changed

            members = [m for m in opened.infolist() if pattern.fullmatch(m.filename)]
            if not members:
                raise DataError(f'{archive} has no folder {folder}. Download it again')
            return sum(in_parallel(restore, members, f'unpack {archive.name}', jobs))
    except UserError:
        raise
    except _BROKEN as error:
        raise DataError(
            f'{archive} is truncated or corrupt ({error}). Download it again'
        ) from error


def _is_unpacked(member: zipfile.ZipInfo, path: Path) -> bool:
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size == member.file_size:
            return zlib.crc32(path.read_bytes()) == member.CRC
    return False
