"""Unpack the downloaded zip files of a data set."""

from __future__ import annotations

import contextlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.special_files import refuse_special_file

from ..errors import DataError, UserError
from .preparation import in_parallel

# zipfile raises ValueError for impossible names and RuntimeError for encryption.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)
# Neither a name that leads out of the folder matches nor that of a hidden file.
_NAME = r'[^/\\.][^/\\]*'


def unpack(archive: Path, root: Path, folder: str, check: bool, jobs: int | None) -> int:
    """Unpack the files of a zip file that are missing or differ.

    Args:
        archive: The zip file.
        root: Where to unpack it.
        folder: The only folder of the zip file to unpack.
        check: Write nothing.
        jobs: Number of threads, by default one per core.

    Returns:
        The number of files that were unpacked, or would be.

    Raises:
        DataError: If the zip file is corrupt or lacks the folder, or the disk has no room
            for its files.
        WriteError: If a file cannot be written.
    """
    with _archive_errors(archive):
        refuse_special_file(archive)
    with _archive_errors(archive), zipfile.ZipFile(archive) as opened:
        pattern = re.compile(rf'{folder}(/{_NAME})+')
        members = [m for m in opened.infolist() if pattern.fullmatch(m.filename)]
        if not members:
            raise DataError(f'{archive} has no folder {folder}. Download it again')

        def restore(member: zipfile.ZipInfo) -> bool:
            path = root / member.filename
            if _is_unpacked(member, path):
                return False
            if not check:
                with _archive_errors(archive):
                    data = opened.read(member)
                write_atomically(path, data)
            return True

        if not check:
            _require_room(archive, members, root)
        return sum(in_parallel(restore, members, f'unpack {archive.name}', jobs))


def _is_unpacked(member: zipfile.ZipInfo, path: Path) -> bool:
    with contextlib.suppress(OSError):
        refuse_special_file(path)
        if path.stat().st_size == member.file_size:
            return zlib.crc32(path.read_bytes()) == member.CRC
    return False


def _require_room(archive: Path, members: list[zipfile.ZipInfo], root: Path) -> None:
    missing = [member for member in members if not (root / member.filename).exists()]
    needed, free = sum(m.file_size for m in missing), shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f'unpacking {archive} needs {needed / 2**30:.2f} GiB, but {root} has only '
            f'{free / 2**30:.2f} GiB left. Free some space'
        )


@contextlib.contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _UNREADABLE as error:
        raise DataError(
            f'{archive} is truncated or corrupt ({error}). Download it again'
        ) from error
