"""Find the images and videos that a command line names."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import storage
from .errors import ConfigError, DataError
from .images import SUFFIXES

VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')

CAMERA = 'camera:'


@dataclass(frozen=True)
class Input:
    """An image, a video or a camera.

    Attributes:
        path: Path of the file, or ``camera:N``.
        name: Path of its outputs below a folder, without a suffix.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it yields frames: a video or a camera."""
        return self.path.startswith(CAMERA) or self.path.lower().endswith(VIDEO_SUFFIXES)


def find_inputs(arguments: Sequence[str], lines: Iterable[str] = ()) -> list[Input]:
    """Return what the arguments name, in a fixed order, each file once.

    A folder stands for the images and videos in it and below it; its outputs keep its
    subfolders. ``-`` stands for ``lines``. Outputs of files that differ in their suffix
    only keep it.

    Args:
        arguments: Files, folders, globs, addresses of a store (``s3://bucket/folder``),
            ``camera:N``, or ``-``.
        lines: Further files, such as from stdin, one a line.

    Raises:
        ConfigError: If two files would have the same outputs.
        DataError: If an argument names nothing.
    """
    found: dict[str, PurePosixPath] = {}
    for argument in arguments:
        if argument == '-':
            for line in lines:
                if path := line.rstrip('\r\n'):
                    found.setdefault(path, PurePosixPath(Path(path).name))
            continue
        for path, name in _expand(argument):
            found.setdefault(path, name)
    if not found:
        raise DataError(f'{" ".join(arguments)} names no image')
    stems = Counter(str(name.with_suffix('')) for name in found.values())
    inputs: list[Input] = []
    owners: dict[str, str] = {}
    for path, name in found.items():
        stem = str(name.with_suffix(''))
        stem = stem if stems[stem] == 1 else str(name)
        if stem in owners:
            raise ConfigError(
                f'{owners[stem]} and {path} would have the same outputs, {stem}: give '
                'the folder above both, or rename one'
            )
        owners[stem] = path
        inputs.append(Input(path, stem))
    return inputs


def _expand(argument: str) -> Iterator[tuple[str, PurePosixPath]]:
    if argument.startswith(CAMERA):
        if not argument[len(CAMERA) :].isdecimal():
            raise ConfigError(f'a camera is camera:NUMBER, but got {argument!r}')
        yield argument, PurePosixPath(argument.replace(':', '_'))
    elif os.path.isdir(argument) or (storage.is_url(argument) and not _is_file(argument)):
        yield from _in_folder(argument)
    elif storage.is_url(argument):
        yield argument, PurePosixPath(argument.rpartition('/')[2])
    elif os.path.exists(argument):
        yield argument, PurePosixPath(Path(argument).name)
    else:
        matches = sorted(glob.glob(argument, recursive=True))
        if not matches:
            raise DataError(f'{argument} does not exist and matches no file')
        for path in matches:
            if not os.path.isdir(path):
                yield path, PurePosixPath(Path(path).name)


def _is_file(address: str) -> bool:
    return address.lower().endswith((*SUFFIXES, *VIDEO_SUFFIXES))


def _in_folder(folder: str) -> Iterator[tuple[str, PurePosixPath]]:
    for file in storage.files_below(folder):
        if _is_file(file):
            path = f'{folder.rstrip("/")}/{file}'
            yield path, PurePosixPath(Path(file).as_posix())


def shard(inputs: Sequence[Input], index: int, count: int) -> list[Input]:
    """Return the part ``index`` of ``count`` equal parts, counted from 1."""
    return list(inputs[index - 1 :: count])
