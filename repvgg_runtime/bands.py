"""Images of any number of bands, such as GeoTIFF files of satellites."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from . import storage
from .errors import ImageError
from .extras import require
from .images import AnyImage, Pixels

Bands = npt.NDArray[Any]
"""An image of shape (H, W, bands), of one of :data:`TYPES`."""

TYPES = ('uint8', 'uint16', 'int16', 'float32')
"""Types of the values, by their numpy names."""


def as_bands(image: AnyImage, count: int) -> Bands:
    """Return an image for a model of other than three bands.

    Args:
        image: The path of a TIFF file, or an array: (H, W, bands), or (H, W) of one band.
        count: Number of bands of the model.

    Raises:
        DataError: If the file does not exist.
        ExtraError: If tifffile is not installed.
        ImageError: If it cannot be read, see :func:`read_bands`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_bands(image, count)
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f'a model of {count} bands takes TIFF files and arrays (H, W, {count}), but '
            f'got {type(image).__name__}'
        )
    return _checked(image[:, :, None] if image.ndim == 2 else image, 'the array', count)


def read_bands(path: str | os.PathLike[str], count: int | None = None) -> Bands:
    """Read the bands of a TIFF file without any change.

    Strips and tiles, bands beside each other or one after the other, and a page for each
    band are read alike. Of several images, such as overviews, the first is read.

    Args:
        path: The file.
        count: Number of bands that it must have; None allows any.

    Returns:
        Shape (H, W, bands), uint8, uint16, int16 or float32.

    Raises:
        DataError: If the file does not exist.
        ExtraError: If tifffile is not installed.
        ImageError: If it is truncated, not a TIFF file, not a regular file, too large, of
            another number of bands or another type, or holds values that are not finite.
    """
    name = os.fspath(path)
    return decode_bands(storage.read_image_file(name), name, count)


def decode_bands(data: bytes, path: str, count: int | None = None) -> Bands:
    """Decode the content of a TIFF file, as :func:`read_bands` does.

    Args:
        data: The content.
        path: Name of the file, for errors.
        count: Number of bands that it must have; None allows any.

    Raises:
        ExtraError: If tifffile is not installed.
        ImageError: See :func:`read_bands`.
    """
    tifffile = require('tifffile', 'tiff')
    name = f'the image {path}'
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            order = _order(series.axes, series.shape, name)
            # Before reading, which takes memory for as many bands as the file claims.
            _require_count(series.shape[order[2]] if order[2:] else 1, count, name)
            ends = [
                offset + length
                for page in series.pages
                for offset, length in zip(page.dataoffsets, page.databytecounts)
            ]
            # A tile beyond the end of the file would be read as zeros.
            if max(ends, default=0) > len(data):
                raise ValueError('its data ends before its last strip or tile')
            values = series.asarray()
    except ImageError:
        raise
    except Exception as error:
        # Decoders raise errors of many types for broken files.
        hint = ': pip install imagecodecs' if 'imagecodecs' in str(error) else ''
        raise ImageError(
            f'{name} is truncated or not a TIFF file that can be read ({error}){hint}'
        ) from error
    values = values.transpose(order)
    return _checked(values if len(order) > 2 else values[:, :, None], name, count)


def shown(image: Bands) -> Pixels:
    """Return the picture of an image, to paint over.

    Bands 1 to 3 are red, green and blue; of fewer bands, the first is shown in grey. In
    each, the values between the percentiles 2 and 98 are spread over 8 bits, as viewers
    of satellite images do.

    Args:
        image: Shape (H, W, bands).

    Returns:
        Shape (H, W, 3), BGR uint8; images of three bands, uint8, are returned unchanged.
    """
    if image.shape[2] == 3 and image.dtype == np.uint8:
        return image
    values = image[:, :, :3] if image.shape[2] > 2 else image[:, :, :1].repeat(3, 2)
    values = values.astype(np.float32)
    low, high = np.percentile(values, (2, 98), (0, 1)).astype(np.float32)
    scaled = (values - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    levels = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(levels[:, :, ::-1])


def _require_count(bands: int, count: int | None, name: str) -> None:
    if count is not None and bands != count:
        raise ImageError(f'{name} has {bands} bands, but the model takes {count}')


def _order(axes: str, shape: tuple[int, ...], name: str) -> list[int]:
    """Return the indices of height, width and, if there is one, the axis of bands."""
    bands = [index for index, axis in enumerate(axes) if axis not in 'YX']
    if len(bands) > 1 or len(axes) != len(bands) + 2:
        raise ImageError(
            f'{name} must have height, width and bands, but its axes are {axes} of '
            f'shape {shape}'
        )
    height, width = axes.index('Y'), axes.index('X')
    # The file may claim any size, and Pillow's limit holds for other images as well.
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and shape[height] * shape[width] > 2 * most:
        raise ImageError(
            f'{name} is too large: its shape is {shape}. Cut it into tiles, or raise '
            'PIL.Image.MAX_IMAGE_PIXELS if you trust the file'
        )
    return [height, width, *bands]


def _checked(values: Bands, name: str, count: int | None) -> Bands:
    """Return an array in the byte order of this machine, if a model can take it."""
    if values.ndim != 3 or 0 in values.shape:
        raise ImageError(
            f'{name} must be of shape (H, W, bands) and not empty, but is of shape '
            f'{values.shape}'
        )
    _require_count(values.shape[2], count, name)
    kind = values.dtype
    if kind.name not in TYPES:
        raise ImageError(f'{name} is of type {kind}: save it as {", ".join(TYPES)}')
    if kind.kind == 'f' and not np.isfinite(values).all():
        raise ImageError(
            f'{name} holds values that are not finite, such as marks of missing data: '
            'replace them as in the training'
        )
    return np.ascontiguousarray(values, kind.newbyteorder('='))
