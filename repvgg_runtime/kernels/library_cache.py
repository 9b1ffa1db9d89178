"""The user's cache of compiled libraries, which loads only what this user has built.

A library is code that runs when it is loaded. So the folder and the file must be the
user's own, nobody else may write to them, and the content must have the SHA-256 in the
file's name: a torn library would end the process with SIGBUS.
"""

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of the cache, made for the user alone if it is missing.

    Raises:
        OSError: If it cannot be made, or others own it or may write to it.
    """
    try:
        root = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    except RuntimeError as error:
        raise FileNotFoundError('the user has no home') from error
    folder = root / 'mmseg_repvgg'
    root.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(folder.stat()):
        raise PermissionError(f'others own {folder} or may write to it')
    return folder


def find_libraries(name: str) -> Iterator[Path]:
    """Yield the sound libraries that were stored under a name."""
    try:
        folder = cache_folder()
    except OSError:
        return
    for path in folder.glob(f'*-{name}'):
        # A link or a named pipe is not opened.
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode) or not _is_private(info):
            _log.warning('%s is not loaded: others own it or may write to it', path)
        elif path.name != _stored_name(path, name):
            _log.warning('%s is not what was built, and is built anew', path)
        else:
            yield path


def store_library(built: Path, name: str) -> Path:
    """Copy a library into the cache, where it appears whole or not at all.

    Args:
        built: The library.
        name: The name to find it by.

    Returns:
        Its path in the cache.

    Raises:
        OSError: If the cache cannot be written.
    """
    folder = cache_folder()
    path = folder / _stored_name(built, name)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        copy = shutil.copyfile(built, Path(temporary, name))
        copy.chmod(0o700)
        with open(copy, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(copy, path)
    return path


def _stored_name(path: Path, name: str) -> str:
    return f'{hashlib.sha256(path.read_bytes()).hexdigest()}-{name}'


def _is_private(info: os.stat_result) -> bool:
    """Return whether the user owns a file or folder and nobody else may write to it."""
    # On Windows files have no such owner.
    if not hasattr(os, 'getuid'):
        return True
    return info.st_uid == os.getuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
