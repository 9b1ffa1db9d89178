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
