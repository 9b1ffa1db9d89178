"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError, WriteError
from .special_files import refuse_special_file


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a crash or a full disk leaves the old content or the new.

    Missing folders are made.

    Args:
        path: The file, replaced if it exists.
        data: Its content.

    Raises:
        WriteError: If the file cannot be written.
    """
    # An exclusive open follows no link.
    with atomic_path(path, '.partial') as temporary, open(temporary, 'xb') as file:
        file.write(data)


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike[str], suffix: str | None = None
) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces another at the end of the block.

    The temporary file is hidden and in the same folder. It is flushed to disk and renamed
    at the end, and removed if the block raises.

    Args:
        path: The file to replace. Missing folders are made.
        suffix: Suffix of the temporary file; by default that of ``path``, for writers
            that choose the format by it.

    Raises:
        WriteError: If a file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix if suffix is None else suffix
    # The name of the file itself may be as long as names can be.
    temporary = path.with_name(f'.{path.stem[:40]}.{secrets.token_hex(4)}{suffix}')
    try:
        refuse_special_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, 'r+b') as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except UserError:
        raise
    except OSError as error:
        raise WriteError(
            f'{path} cannot be written: {error.strerror or error}. Free some space or '
            'choose another folder'
        ) from error
    # The rename must reach the disk as well. Some systems cannot flush a folder.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
