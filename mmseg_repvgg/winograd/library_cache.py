"""The user's cache of compiled libraries, which loads only what this user has built.

A library is code that runs when it is loaded. So the folder and the file must be the
user's own, nobody else may write to them, and the content must have the SHA-256 that is
in the file's name: a torn library would end the process with SIGBUS.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
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


def find_library(name: str) -> Path | None:
    """Find a library by the name it was stored under; None if no sound one is there."""
    try:
        folder = cache_folder()
    except OSError:
        return None
    for path in folder.glob(f'*-{name}'):
        # A link or a named pipe is not opened.
        info = path.lstat()
        if stat.S_ISREG(info.st_mode) and _is_private(info):
            if path.name == _stored_name(path, name):
                return path
            _log.warning('%s is not what was built, and is built anew', path)
        else:
            _log.warning('%s is not loaded: others own it or may write to it', path)
    return None


def store_library(built: Path, name: str, folder: Path) -> Path:
    """Move a library into the cache, where it appears whole or not at all.

    Args:
        built: The library, on the file system of the cache.
        name: What to find it by.
        folder: From :func:`cache_folder`.

    Returns:
        Where it is now.
    """
    built.chmod(0o700)
    with open(built, 'rb') as file:
        os.fsync(file.fileno())
    path = folder / _stored_name(built, name)
    os.replace(built, path)
    return path


def _stored_name(path: Path, name: str) -> str:
    return f'{hashlib.sha256(path.read_bytes()).hexdigest()}-{name}'


def _is_private(info: os.stat_result) -> bool:
    """Tell whether the user owns a file or folder and nobody else may write to it."""
    # Windows has no such owners; a profile's folder is its user's.
    if not hasattr(os, 'getuid'):
        return True
    return info.st_uid == os.getuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
