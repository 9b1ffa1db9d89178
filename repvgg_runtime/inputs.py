"""Find the images and videos that a command line names."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import storage
from .errors import ConfigError, DataError
from .images import SUFFIXES

VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')

CAMERA = 'camera:'

_FRAME = re.compile('[0-9]{6,}')


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
    def is_camera(self) -> bool:
        """Whether it is a camera."""
        return self.path.startswith(CAMERA)

    @property
    def is_video(self) -> bool:
        """Whether it yields frames: a video or a camera."""
        return self.is_camera or self.path.lower().endswith(VIDEO_SUFFIXES)


def find_inputs(
    arguments: Sequence[str], lines: Iterable[str] = (), *, without: Sequence[str] = ()
) -> list[Input]:
    """Return what the arguments name, in a fixed order, each file once.

    A folder stands for the images and videos in it and below it; its outputs keep its
    subfolders. ``-`` stands for ``lines``, whose outputs keep their folders below the
    folder that holds all of them. Outputs of files that differ in their suffix only keep
    it.

    Args:
        arguments: Files, folders, globs, addresses of a store (``s3://bucket/folder``),
            ``camera:N``, or ``-``.
        lines: Further files, such as from stdin, one a line.
        without: Folders whose files are left out unless they are named themselves.

    Raises:
        ConfigError: If two files would have the same outputs, or a line is not a file.
        DataError: If an argument names nothing.
    """
    by_place: dict[str, tuple[str, PurePosixPath]] = {}
    folders = tuple(f'{_place(folder)}/' for folder in without)
    for argument in arguments:
        for path, name in _in_lines(lines) if argument == '-' else _expand(argument):
            place = _place(path)
            if argument in ('-', path) or not place.startswith(folders):
                by_place.setdefault(place, (path, name))
    found = dict(by_place.values())
    if not found:
        raise DataError(f'{" ".join(arguments)} has no image or video')
    stems = Counter(str(name.with_suffix('')) for name in found.values())
    inputs: list[Input] = []
    owners: dict[str, str] = {}
    for path, name in found.items():
        stem = str(name.with_suffix(''))
        stem = stem if stems[stem] == 1 else str(name)
        if stem in owners:
            raise _same_outputs(owners[stem], path, stem)
        owners[stem] = path
        inputs.append(Input(path, stem))
    videos = {each.name: each.path for each in inputs if each.is_video}
    for each in inputs:
        folder, _, frame = each.name.rpartition('/')
        if folder in videos and _FRAME.fullmatch(frame):
            raise _same_outputs(videos[folder], each.path, each.name)
    return inputs


def _same_outputs(one: str, other: str, name: str) -> ConfigError:
    return ConfigError(
        f'{one} and {other} would have the same outputs, {name}: give the folder above '
        'both, or rename one'
    )


def _place(path: str) -> str:
    """Return one spelling of a path, which may be written in several ways."""
    fixed = path.startswith(CAMERA) or storage.is_url(path)
    return path.rstrip('/') if fixed else os.path.abspath(path)


def _in_lines(lines: Iterable[str]) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield files with their paths below the folder that holds all of them."""
    files: list[tuple[str, tuple[str, ...]]] = []
    for line in lines:
        path = line.rstrip('\r\n')
        if path.startswith(CAMERA):
            yield from _expand(path)
        elif path:
            place = _place(path)
            parts = (PurePosixPath if storage.is_url(path) else Path)(place).parts
            if len(parts) < 2:
                raise ConfigError(
                    f'a line of the list must name a file, but got {path!r}'
                )
            files.append((path, parts))
    common = len(os.path.commonprefix([parts[:-1] for _, parts in files]))
    for path, parts in files:
        yield path, PurePosixPath(*parts[common:])


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
