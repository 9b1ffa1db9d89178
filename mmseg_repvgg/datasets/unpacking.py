"""Unpacking zip files as downloaded: what is missing or torn, and nothing else."""

from __future__ import annotations

import contextlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..atomic_write import write_atomically
from ..errors import DataError, UserError
from ..special_files import refuse_special_file
from .preparing import in_parallel

# A name that leads out of the folder does not fit, nor does one of a hidden file.
_NAME = r'[^/\\.][^/\\]*'


def unpack(
    archive: Path, root: Path, folder: str, *, check: bool, jobs: int | None = None
) -> tuple[int, int]:
    """Bring the files under a folder of a zip file to where they belong.

    What is there with the size and the checksum it should have is left alone.

    Args:
        archive: The zip file.
        root: Where to unpack it.
        folder: Only what is in this folder of the zip file, at any depth, is unpacked.
        check: Write nothing.
        jobs: How many files at a time; by default one a core.

    Returns:
        How many files are in that folder of the zip file, and how many of them were
        unpacked; with ``check``, how many would be.

    Raises:
        DataError: If the zip file is corrupt or of something else, or the disk has no
            room for its files.
        WriteError: If a file cannot be written.
    """
    with _naming(archive), zipfile.ZipFile(archive) as opened:
        pattern = re.compile(rf'{folder}(/{_NAME})+')
        members = {
            member.filename: member
            for member in opened.infolist()
            if pattern.fullmatch(member.filename)
        }
        if not members:
            raise DataError(
                f'{archive} holds no folder {folder}: it is another file than its name '
                'says. Download it again'
            )

        def lacks(member: zipfile.ZipInfo) -> bool:
            path = root / member.filename
            with contextlib.suppress(OSError):
                refuse_special_file(path)
                if path.stat().st_size == member.file_size:
                    return zlib.crc32(path.read_bytes()) != member.CRC
            return True

        def bring(member: zipfile.ZipInfo) -> None:
            with _naming(archive):
                data = opened.read(member)
            write_atomically(root / member.filename, data)

        found = in_parallel(lacks, members.values(), f'compare {archive.name}', jobs)
        lacking = [member for member, lack in zip(members.values(), found) if lack]
        if lacking and not check:
            _check_room(archive, root, sum(member.file_size for member in lacking))
            in_parallel(bring, lacking, f'unpack {archive.name}', jobs)
        return len(members), len(lacking)


@contextlib.contextmanager
def _naming(archive: Path) -> Iterator[None]:
    """Say which zip file it was that cannot be read."""
    try:
        yield
    except UserError:
        raise
    # ValueError: names that are none; RuntimeError: encrypted, or a compression that
    # zipfile does not know.
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:
        raise DataError(
            f'{archive} cannot be read whole ({error}): it is truncated or corrupt. '
            'Download it again'
        ) from error


def _check_room(archive: Path, root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f'unpacking {archive} needs {needed / 2**30:.2f} GiB, but {root} has only '
            f'{free / 2**30:.2f} GiB left. Free some space'
        )
