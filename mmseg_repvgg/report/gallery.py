"""Pictures of the images with the highest scores, within a number of bytes."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from repvgg_runtime.bands import shown
from repvgg_runtime.painting import paint

from .segmented import Segmented

WIDTHS = (1024, 768, 640, 512, 384, 256, 192, 128, 96, 64)
"""Widths of a pane in pixels, from which the largest is taken that fits."""

QUALITY = 80
_LOSSLESS = 101
# Vermilion of Okabe and Ito's palette for colour-blind readers, BGR.
_MARK = np.array((0, 94, 213), np.float32)


@dataclass(frozen=True)
class Pane:
    """A WebP picture, its size in pixels and what it shows."""

    title: str
    data: bytes
    width: int
    height: int


Draw = Callable[[Segmented, int], list[Pane]]
"""Draws the panes of an image at most as wide as a number of pixels."""


class Gallery:
    """Keeps the panes of the images with the highest scores.

    Args:
        count: Number of images to keep.
        limit: Number of bytes for the panes of all of them.
        draw: Draws the panes of an image.
    """

    def __init__(self, count: int, limit: int, draw: Draw) -> None:
        self.count, self.limit, self.draw = count, limit, draw
        # Score, negative index, panes; the index is unique, so panes are not compared.
        self._heap: list[tuple[float, int, list[Pane]]] = []

    def offer(self, index: int, score: float, image: Segmented) -> None:
        """Draw and keep an image if its score is positive and among the highest.

        Args:
            index: Number of the image in the data set.
            score: For example its error.
            image: The image.
        """
        full = len(self._heap) >= self.count
        if not score > 0 or (full and (not self.count or score <= self._heap[0][0])):
            return
        keep = heapq.heapreplace if full else heapq.heappush
        keep(self._heap, (score, -index, self._fit(image)))

    def pictures(self) -> list[tuple[int, list[Pane]]]:
        """Return index and panes of each kept image, the highest score first."""
        return [(-index, panes) for _, index, panes in sorted(self._heap, reverse=True)]

    def _fit(self, image: Segmented) -> list[Pane]:
        panes: list[Pane] = []
        for width in WIDTHS:
            # Nothing is drawn larger than it is.
            if panes and width >= panes[0].width:
                continue
            panes = self.draw(image, width)
            if sum(len(pane.data) for pane in panes) <= self.limit // self.count:
                break
        return panes


def draw_errors(palette: Sequence[Sequence[int]], ignore_index: int = 255) -> Draw:
    """Return a function that draws image, truth, prediction and wrong pixels."""

    def draw(image: Segmented, width: int) -> list[Pane]:
        size = _size(image.truth, width)
        ignored = image.truth == ignore_index
        wrong = (image.truth != image.labels) & ~ignored
        picture = cv2.resize(shown(image.image), size, interpolation=cv2.INTER_AREA)
        marked = _mark(picture, wrong)
        marked[_shrink(ignored, size) > 0.5] = 0
        truth = np.where(ignored, -1, image.truth)
        return [
            _pane('Image', picture, QUALITY),
            _pane('Truth', _paint(truth, palette, size), _LOSSLESS),
            _pane('Prediction', _paint(image.labels, palette, size), _LOSSLESS),
            _pane('Wrong pixels', marked, QUALITY),
        ]

    return draw


def draw_forms(image: Segmented, width: int) -> list[Pane]:
    """Draw where the training and the fused form give other labels."""
    assert image.forms is not None
    picture = cv2.resize(
        shown(image.image), _size(image.truth, width), interpolation=cv2.INTER_AREA
    )
    # A single pixel would be invisible.
    side = 7 + 2 * (image.truth.shape[1] // 100)
    enlarge = np.ones((side, side), np.uint8)
    marks = cv2.dilate(image.forms.labels.astype(np.uint8), enlarge)
    return [_pane('Pixels with other labels', _mark(picture, marks), QUALITY)]


def _size(labels: np.ndarray, width: int) -> tuple[int, int]:
    """Return width and height in pixels, as WebP can hold them."""
    scale = min(1.0, width / labels.shape[1], 16383 / labels.shape[0])
    height, width = (max(1, round(length * scale)) for length in labels.shape)
    return width, height


def _shrink(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the share of each pixel of a picture that a mask covers."""
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _mark(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Colour the pixels of a mask in a pale grey version of a picture."""
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[:, :, None] * 0.45 + 130.0
    # Twice their share, so that thin errors stay visible in a smaller picture.
    share = np.minimum(2 * _shrink(mask, (width, height)), 1)[:, :, None]
    return (grey * (1 - share) + _MARK * share).round().astype(np.uint8)


def _paint(
    labels: np.ndarray, palette: Sequence[Sequence[int]], size: tuple[int, int]
) -> np.ndarray:
    small = cv2.resize(labels.astype(np.int16), size, interpolation=cv2.INTER_NEAREST)
    return paint(small, palette)


def _pane(title: str, picture: np.ndarray, quality: int) -> Pane:
    _, data = cv2.imencode('.webp', picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return Pane(title, data.tobytes(), picture.shape[1], picture.shape[0])
