"""Read and write the PNG files of a data set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.special_files import refuse_special_file

from ..errors import ImageError

# A file of a few kB may claim as many pixels as fill the memory.
_MAX_PIXELS: Final = 1 << 26


def verify_png(path: Path) -> tuple[int, int]:
    """Verify the checksums of a PNG file; decoders accept half an image without an error.

    Returns:
        Height and width.

    Raises:
        ImageError: If the file is truncated, corrupt or not a PNG.
    """
    with _image_errors(path), Image.open(path, formats=['PNG']) as image:
        image.verify()
        return image.height, image.width


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a label map and verify its checksums.

    Returns:
        Shape (H, W).

    Raises:
        ImageError: If the file is truncated, corrupt, far larger than any label map of
            these data sets, or does not have one channel of 8 bits.
    """
    height, width = verify_png(path)
    if height * width > _MAX_PIXELS:
        raise ImageError(f'{path} is not a label map: it claims {height}x{width} pixels')
    with _image_errors(path), Image.open(path, formats=['PNG']) as image:
        if image.mode != 'L':
            raise ImageError(
                f'{path} is not a label map: it must have one channel of 8 bits, but got '
                f'an image of mode {image.mode}'
            )
        return np.array(image)


@contextlib.contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    try:
        refuse_special_file(path)
        yield
    except ImageError:
        raise
    # Pillow raises errors of many types for hostile chunks.
    except Exception as error:
        raise ImageError(f'{path} cannot be read as a whole PNG: {error}') from error


def map_labels(
    labels: npt.NDArray[np.uint8], table: Mapping[int, int], path: Path
) -> npt.NDArray[np.uint8]:
    """Replace every value by that of a table.

    Args:
        labels: Shape (H, W).
        table: The new value of each old one, both from 0 to 255.
        path: The file of the labels, for the error.

    Returns:
        Shape (H, W).

    Raises:
        ImageError: If a value is not in the table.
    """
    found = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    if unknown := sorted(set(found) - set(table)):
        raise ImageError(f'{path} holds {unknown}, which are not labels of this data set')
    lookup = np.zeros(256, np.uint8)
    for value, new in table.items():
        lookup[value] = new
    return lookup[labels]


def update_labels(path: Path, labels: npt.NDArray[np.uint8], check: bool) -> bool:
    """Write a label map as PNG unless the file holds it already.

    Args:
        path: The file.
        labels: Shape (H, W).
        check: Write nothing.

    Returns:
        Whether the file was written, or would be.

    Raises:
        WriteError: If it cannot be written.
    """
    with contextlib.suppress(ImageError):
        if np.array_equal(read_labels(path), labels):
            return False
    if not check:
        write_atomically(path, cv2.imencode('.png', labels)[1].tobytes())
    return True


def update_file(path: Path, data: bytes, check: bool) -> bool:
    """Write a file unless it holds these bytes already.

    Args:
        path: The file.
        data: Its content.
        check: Write nothing.

    Returns:
        Whether the file was written, or would be.

    Raises:
        WriteError: If it cannot be written.
    """
    with contextlib.suppress(OSError):
        refuse_special_file(path)
        if path.read_bytes() == data:
            return False
    if not check:
        write_atomically(path, data)
    return True


def files_in(folder: Path, suffix: str) -> dict[str, Path]:
    """List the files of a folder at any depth, as mmseg's data sets find them.

    Returns:
        Each file by its path in the folder without the suffix, sorted. Hidden files,
        such as those of macOS and temporary ones, are left out.
    """
    found = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.endswith(suffix) and not name.startswith('.'):
                path = Path(parent, name)
                found[str(path.relative_to(folder)).removesuffix(suffix)] = path
    return dict(sorted(found.items()))
