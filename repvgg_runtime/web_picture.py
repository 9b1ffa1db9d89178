"""A segmented picture of the web page: what it shows of it, and its downloads."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .errors import ImageError
from .images import FORMATS, Pixels, decode_image
from .painting import blend
from .resizing import resize_labels
from .segmenter import BaseSegmenter, Labels

SHOWN_SIDE = 1280
"""Longest side of the picture on the page, in pixels."""


@dataclass(frozen=True)
class Picture:
    """A picture as it was given.

    Attributes:
        name: Name of its file.
        data: Content of its file.
    """

    name: str
    data: bytes

    @property
    def pixels(self) -> Pixels:
        """The decoded picture."""
        return decode_image(self.data, self.name)


@dataclass(frozen=True)
class Segmented:
    """A picture with its labels; no more than the page needs is kept.

    Attributes:
        picture: The picture.
        label_png: PNG file of the label map, of the picture's size.
        size: Height and width of the picture.
        seconds: Time from the decoded picture to its label map.
        shares: Share of the pixels of each class in the picture, the largest first.
        shown: The picture as the page shows it, (h, w, 3), BGR uint8.
        shown_labels: The label map of that, (h, w).
    """

    picture: Picture
    label_png: bytes
    size: tuple[int, int]
    seconds: float
    shares: dict[int, float]
    shown: Pixels
    shown_labels: Labels

    def overlay(
        self, palette: Sequence[Sequence[int]], classes: Collection[int], opacity: float
    ) -> Pixels:
        """Paint some classes over the picture, of its own size.

        Args:
            palette: An RGB colour for each class.
            classes: Classes to paint.
            opacity: Opacity of the colours, from 0 to 1.
        """
        labels = np.asarray(Image.open(io.BytesIO(self.label_png)))
        return paint_classes(self.picture.pixels, labels, palette, classes, opacity)

    def preview(
        self, palette: Sequence[Sequence[int]], classes: Collection[int], opacity: float
    ) -> Pixels:
        """Paint some classes over the picture as the page shows it, as an overlay."""
        return paint_classes(self.shown, self.shown_labels, palette, classes, opacity)


def check_picture(picture: Picture, max_pixels: int) -> None:
    """Check the header of a picture, without decoding it.

    Raises:
        ImageError: If it is not an image of one of :data:`.images.FORMATS`, or has more
            pixels.
    """
    try:
        with Image.open(io.BytesIO(picture.data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ImageError(
            f'{picture.name} has more pixels than are allowed, which are '
            f'{max_pixels / 1e6:g} million. Choose a smaller one'
        ) from error
    except Exception as error:
        # Readers of headers raise errors of many types for broken files.
        raise ImageError(
            f'{picture.name} is not an image that can be read. Choose a file in one of '
            f'the formats {", ".join(FORMATS)}'
        ) from error
    if width * height > max_pixels:
        raise ImageError(
            f'{picture.name} has {width}x{height} pixels, but at most '
            f'{max_pixels / 1e6:g} million are allowed. Choose a smaller one'
        )


def segment(segmenter: BaseSegmenter, picture: Picture) -> Segmented:
    """Segment a picture.

    Raises:
        ImageError: If it cannot be decoded.
    """
    pixels = picture.pixels
    start = time.perf_counter()
    labels = segmenter(pixels)
    seconds = time.perf_counter() - start
    counts = np.bincount(labels.ravel())
    order = [int(index) for index in counts.argsort()[::-1] if counts[index]]
    height, width = labels.shape
    scale = min(1, SHOWN_SIDE / max(height, width))
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Segmented(
        picture,
        encode_labels(labels, segmenter.classes),
        (height, width),
        seconds,
        {index: counts[index] / labels.size for index in order},
        np.asarray(cv2.resize(pixels, shown, interpolation=cv2.INTER_AREA), np.uint8),
        resize_labels(labels, (shown[1], shown[0])),
    )


def paint_classes(
    image: Pixels,
    labels: Labels,
    palette: Sequence[Sequence[int]],
    classes: Collection[int],
    opacity: float,
) -> Pixels:
    """Paint the labels of some classes over an image.

    Args:
        image: Shape (H, W, 3), BGR uint8.
        labels: Shape (H, W).
        palette: An RGB colour for each class.
        classes: Classes to paint.
        opacity: Opacity of the colours, from 0 to 1.

    Returns:
        Shape (H, W, 3), BGR uint8.
    """
    painted = np.zeros(len(palette), bool)
    painted[list(classes)] = True
    return np.where(
        painted[labels][:, :, None], blend(image, labels, palette, opacity), image
    )


def encode_labels(labels: Labels, classes: Sequence[str]) -> bytes:
    """Return a label map as a PNG file of 8 bits, or 16 for more than 256 classes.

    Its text ``classes`` is JSON with the name of each id.

    Args:
        labels: Shape (H, W).
        classes: Name of each label.
    """
    text = PngInfo()
    text.add_text('classes', json.dumps(dict(enumerate(classes))), zip=True)
    file = io.BytesIO()
    Image.fromarray(labels).save(file, 'png', pnginfo=text)
    return file.getvalue()


def data_url(content: bytes, kind: str) -> str:
    """Return an image file as an address that holds its content.

    Args:
        content: The file.
        kind: Its subtype, such as ``png``.
    """
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def encode_png(image: Pixels) -> bytes:
    """Return a picture as a PNG file."""
    return cv2.imencode('.png', image)[1].tobytes()


def encode_preview(image: Pixels) -> bytes:
    """Return a picture as a JPEG file that keeps the edges of colours."""
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 92, *sampling])[
        1
    ].tobytes()
