"""Files of a data set: read only if they are sound, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..atomic_write import write_atomically
from ..errors import ImageError, WriteError
from ..special_files import refuse_special_file

_SIGNATURE: Final = b'\x89PNG\r\n\x1a\n'
# A file of a few kB may claim as many pixels as fill the memory.
_MAX_PIXELS: Final = 1 << 26
_END: Final = b'\x00\x00\x00\x00IEND\xaeB`\x82'


class State(IntEnum):
    """How a file to be made was found, and left."""

    KEPT = 0
    DUE = 1
    MADE = 2


def png_size(path: Path) -> tuple[int, int]:
    """Height and width of a PNG image, from its header.

    Raises:
        ImageError: If its start or its end is not that of a PNG, as of a torn file. What
            lies between is not read.
    """
    try:
        refuse_special_file(path)
        with open(path, 'rb') as file:
            start = file.read(33)
            file.seek(-min(len(_END), len(start)), os.SEEK_END)
            end = file.read()
    except OSError as error:
        raise ImageError(f'{path} cannot be read: {error}') from error
    return _size(path, start, end)


def _size(path: Path, start: bytes, end: bytes) -> tuple[int, int]:
    header = start[: len(_SIGNATURE)] + start[12:16]
    if len(start) < 33 or header != _SIGNATURE + b'IHDR':
        raise ImageError(f'{path} is no PNG image, or empty')
    if end != _END:
        raise ImageError(f'{path} is truncated: the end of its PNG image is missing')
    return int.from_bytes(start[20:24], 'big'), int.from_bytes(start[16:20], 'big')


def read_png(path: Path) -> bytes:
    """The bytes of a PNG file, once the checksums of all its chunks are found right.

    Decoders do not tell: OpenCV gives half an image of a truncated file.

    Raises:
        ImageError: If the file is truncated, altered or no PNG.
    """
    try:
        refuse_special_file(path)
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f'{path} cannot be read: {error}') from error
    _size(path, data[:33], data[-len(_END) :])
    position = len(_SIGNATURE)
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], 'big')
        stop = position + 8 + length
        if data[stop : stop + 4] != zlib.crc32(data[position + 4 : stop]).to_bytes(
            4, 'big'
        ):
            raise ImageError(f'{path} is corrupt: a checksum in the PNG image is wrong')
        position = stop + 4
    return data


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a label map.

    Returns:
        Shape (H, W).

    Raises:
        ImageError: If the file is truncated, corrupt, or not an image of 8 bits in one
            channel.
    """
    data = read_png(path)
    require_usual_size(path, *_size(path, data[:33], data[-len(_END) :]))
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise ImageError(f'{path} is corrupt: it cannot be decoded')
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ImageError(
            f'{path} is no label map: it has to be of one channel of 8 bits, but is an '
            f'array of shape {labels.shape} and type {labels.dtype}'
        )
    return labels.view(np.uint8)


def require_usual_size(path: Path, height: int, width: int) -> None:
    """Refuse a label map that would fill the memory, before it is decoded.

    Raises:
        ImageError: If it has far more pixels than any label map of these data sets.
    """
    if height * width > _MAX_PIXELS:
        raise ImageError(f'{path} is no label map: it claims {height}x{width} pixels')


def map_labels(
    labels: npt.NDArray[np.uint8], table: Mapping[int, int], path: Path
) -> npt.NDArray[np.uint8]:
    """Replace every value by that of a table.

    Args:
        labels: Shape (H, W).
        table: The new value of each old one, both from 0 to 255.
        path: Where the labels come from, for the error.

    Returns:
        Shape (H, W).

    Raises:
        ImageError: If a value is not in the table.
    """
    lookup, known = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for value, new in table.items():
        lookup[value], known[value] = new, 1
    if not cv2.LUT(labels, known).all():
        unknown = sorted(set(np.unique(labels).tolist()) - set(table))
        raise ImageError(f'{path} is no label map of this data set: it holds {unknown}')
    return cv2.LUT(labels, lookup).view(np.uint8)


def put_labels(path: Path, labels: npt.NDArray[np.uint8], check: bool) -> State:
    """Have a file hold a label map: keep it if it does, else write it.

    Args:
        path: A PNG file.
        labels: Shape (H, W).
        check: Write nothing.

    Raises:
        WriteError: If it cannot be written.
    """
    with contextlib.suppress(ImageError):
        if np.array_equal(read_labels(path), labels):
            return State.KEPT
    if not check:
        write_atomically(path, cv2.imencode('.png', labels)[1].tobytes())
    return State.DUE if check else State.MADE


def put_bytes(path: Path, data: bytes, check: bool) -> State:
    """Have a file hold these bytes: keep it if it does, else write it.

    Args:
        path: The file.
        data: Its content.
        check: Write nothing.

    Raises:
        WriteError: If it cannot be written.
    """
    with contextlib.suppress(OSError):
        refuse_special_file(path)
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return State.KEPT
    if not check:
        write_atomically(path, data)
    return State.DUE if check else State.MADE


def make_folder(path: Path) -> None:
    """Make a folder and those it is in, unless it is there.

    Raises:
        WriteError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f'{path} cannot be written: {error.strerror or error}. Make room, or see to it '
        'that the folder may be written; then run this again, and it goes on from here'
    )


def files_in(folder: Path, suffix: str) -> dict[str, Path]:
    """The files of a folder, at any depth, as mmseg's data sets find them.

    Returns:
        Each file by its path in the folder, without the suffix, sorted by it. Hidden
        ones are left out, which temporary files and those of macOS are.
    """
    found = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.endswith(suffix) and not name.startswith('.'):
                path = Path(parent, name)
                found[str(path.relative_to(folder)).removesuffix(suffix)] = path
    return dict(sorted(found.items()))
