"""Paint label maps in the colours of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GAP = 4


def paint(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Paint a label map.

    Args:
        labels: Shape (H, W), training ids; other labels are painted black.
        palette: An RGB colour for each class.

    Returns:
        Shape (H, W, 3), BGR uint8.
    """
    colours = np.asarray(palette, np.uint8).reshape(-1, 3)[:, ::-1]
    table = np.vstack([colours, np.zeros((1, 3), np.uint8)])
    # The last entry, which is also that of -1, is black.
    return table[np.clip(labels.astype(np.int64), -1, len(colours))]


def blend(
    image: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[Sequence[int]],
    opacity: float = 0.5,
) -> np.ndarray:
    """Paint a label map over its image.

    Args:
        image: Shape (H, W, 3), BGR uint8.
        labels: Shape (H, W), training ids.
        palette: An RGB colour for each class.
        opacity: Opacity of the colours, from 0 to 1.

    Returns:
        Shape (H, W, 3), BGR uint8.
    """
    painted = paint(labels, palette)
    return cv2.addWeighted(painted, opacity, image, 1 - opacity, 0)


def default_palette(count: int) -> list[list[int]]:
    """Return RGB colours that differ, for classes without a palette."""
    # Steps of the golden ratio spread hues evenly for any count.
    hues = (np.arange(count) * 0.618034 % 1 * 180).astype(np.uint8)
    hsv = np.stack([hues, np.full_like(hues, 170), np.full_like(hues, 220)], -1)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].tolist()


def side_by_side(
    image: np.ndarray,
    label_maps: Sequence[np.ndarray],
    palette: Sequence[Sequence[int]],
    max_width: int | None = None,
) -> np.ndarray:
    """Join an image and its painted label maps, with white gaps between them.

    Args:
        image: Shape (h, w, 3), BGR uint8; it is resized to the label maps.
        label_maps: Each of shape (H, W), training ids, 255 ignored.
        palette: An RGB colour for each class.
        max_width: Largest width of a pane in pixels; wider ones are shrunk.

    Returns:
        Shape (H, n * W + gaps, 3), BGR uint8.
    """
    height, width = label_maps[0].shape
    if max_width is not None and width > max_width:
        height, width = max(1, round(height * max_width / width)), max_width
    size = (width, height)
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    panes = [image]
    for labels in label_maps:
        painted = paint(labels, palette)
        if labels.shape != (height, width):
            painted = cv2.resize(painted, size, interpolation=cv2.INTER_NEAREST)
        panes += [np.full((height, GAP, 3), 255, np.uint8), painted]
    return np.hstack(panes)
