"""Read images as a viewer shows them."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from . import storage
from .errors import ImageError

Pixels = npt.NDArray[np.uint8]
"""An image of shape (H, W, 3), BGR uint8."""

AnyImage = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""A path, a Pillow image, or an array of shape (H, W, 3), BGR uint8, or (H, W), grey."""

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
"""Suffixes of the image files that are looked for in folders."""

FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Formats that are decoded, by their names in Pillow; others may start programs."""

_WIDE = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N')


def as_pixels(image: AnyImage) -> Pixels:
    """Return an image as an array.

    Args:
        image: A path, a Pillow image, or an array: (H, W, 3), BGR as OpenCV reads it, or
            (H, W), grey; uint8.

    Raises:
        DataError: If the file does not exist.
        ImageError: If it cannot be read, see :func:`read_image`, or the array is of
            another shape or type.
    """
    if isinstance(image, Image.Image):
        return _to_pixels(image, 'the image')
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if not isinstance(image, np.ndarray):
        raise ImageError(
            'an image must be a path, a Pillow image or an array, but got '
            f'{type(image).__name__}; cv2.imread returns None for a file it cannot read'
        )
    shape, dtype = image.shape, image.dtype
    if dtype != np.uint8 or image.ndim not in (2, 3) or shape[2:] not in ((), (3,)):
        raise ImageError(
            'an array must be of shape (H, W, 3), BGR, or (H, W), grey, and of type '
            f'uint8, but got {shape} and {dtype}'
        )
    if 0 in shape:
        raise ImageError(f'the image is empty: its shape is {shape}')
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, 2)
    return image


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """Read an image file as a viewer shows it.

    The orientation of EXIF is applied, grey and palettes become colours, 16 bits become
    8, transparent pixels lie on white. Of several frames, the first is read.

    Args:
        path: The file.

    Returns:
        Shape (H, W, 3), BGR uint8.

    Raises:
        DataError: If the file does not exist.
        ImageError: If it is truncated, not an image, not a regular file, too large for
            Pillow, or of floats, which have no range that a viewer could show.
    """
    name = os.fspath(path)
    return decode_image(storage.read_image_file(name), name)


def decode_image(data: bytes, path: str) -> Pixels:
    """Decode the content of an image file, as :func:`read_image` does.

    Args:
        data: The content.
        path: Name of the file, for errors.

    Raises:
        ImageError: See :func:`read_image`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _to_pixels(image, f'the image {path}')
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        # Its text names a buffer, not the file.
        raise ImageError(
            f'the image {path} is truncated or not an image of {", ".join(FORMATS)}'
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f'the image {path} is too large for Pillow ({error}). Cut it into tiles, or '
            'raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file'
        ) from error
    except Exception as error:
        # Decoders raise errors of many types for broken files and hostile chunks.
        raise ImageError(
            f'the image {path} is truncated or not an image ({error})'
        ) from error


def _to_pixels(image: Image.Image, name: str) -> Pixels:
    image = ImageOps.exif_transpose(image)
    if image.mode in _WIDE:
        values = np.asarray(image)
        low, high = values.min(), values.max()
        # A file of 32 bits does not tell how many of them are used.
        if low < 0 or high > 65535 or 0 < high < 256:
            raise ImageError(
                f'{name} has values from {low} to {high}: scale it to 8 or 16 bits'
            )
        image = Image.fromarray((values // 256).astype(np.uint8))
    elif image.mode == 'F':
        raise ImageError(f'{name} holds floats: save it with 8 or 16 bits')
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    return np.ascontiguousarray(np.asarray(image.convert('RGB'))[:, :, ::-1])
