"""Read and write files of this machine, and of object stores by fsspec."""

from __future__ import annotations

import os
from typing import Any

from .atomic_write import write_atomically
from .errors import ConfigError, DataError, ImageError, UserError, WriteError
from .extras import require
from .special_files import refuse_special_file


def is_url(path: str) -> bool:
    """Return whether a path is an address of a store, such as ``s3://bucket/file``."""
    return '://' in path


def read(path: str) -> bytes:
    """Read a file.

    Raises:
        OSError: If it cannot be read.
        ExtraError: If it is in a store, but fsspec is not installed.
    """
    if _is_in_store(path):
        store, inside = _store(path)
        return store.cat_file(inside)
    path = local_path(path)
    refuse_special_file(path)
    with open(path, 'rb') as file:
        return file.read()


def read_image_file(path: str) -> bytes:
    """Read a file, and name an image that cannot be read.

    Raises:
        DataError: If it does not exist.
        ExtraError: If it is in a store, but fsspec is not installed.
        ImageError: If it cannot be read.
    """
    try:
        return read(path)
    except FileNotFoundError as error:
        raise DataError(f'the image {path} does not exist') from error
    except UserError:
        raise
    except Exception as error:  # Stores raise errors of many types.
        reason = str(error) or repr(error)
        raise ImageError(f'the image {path} cannot be read ({reason})') from error


def exists(path: str) -> bool:
    """Return whether a file exists.

    Raises:
        ConfigError: If the store raises an error.
    """
    if _is_in_store(path):
        store, inside = _store(path)
        try:
            return store.exists(inside)
        except Exception as error:
            raise ConfigError(f'{path} cannot be looked up: {error!r}') from error
    return os.path.exists(local_path(path))


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all, as object stores such as S3 do by themselves.

    Raises:
        WriteError: If it cannot be written.
    """
    if _is_in_store(path):
        store, inside = _store(path)
        try:
            store.pipe_file(inside, data)
        except Exception as error:  # Stores raise errors of many types.
            raise WriteError(f'{path} cannot be written: {error!r}') from error
    else:
        write_atomically(local_path(path), data)


def files_below(folder: str) -> list[str]:
    """Return the paths of all files in a folder and its subfolders, relative to it.

    Links to folders are followed.

    Raises:
        DataError: If a folder may not be read, or the store cannot list it.
    """
    if _is_in_store(folder):
        store, inside = _store(folder)
        inside = inside.rstrip('/')
        try:
            return sorted(path[len(inside) + 1 :] for path in store.find(inside))
        except Exception as error:
            raise DataError(f'{folder} cannot be listed: {error!r}') from error
    found, folder = [], local_path(folder)
    seen = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # A link to a folder above would never end.
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for file in sorted(files):
            found.append(os.path.relpath(os.path.join(parent, file), folder))
    return found


def _refuse(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise DataError(f'the folder {error.filename} may not be read') from error


def _is_in_store(path: str) -> bool:
    return is_url(path) and not path.startswith('file://')


def local_path(path: str) -> str:
    """Return a path without the scheme ``file://``."""
    return path.removeprefix('file://')


def _store(path: str) -> Any:
    fsspec = require('fsspec', 'ray')
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ConfigError(f'{path} cannot be opened: {error}') from error
