"""Pictures of predictions: input | ground truth | prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

GAP = 4


def paint(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Paint a label map.

    Args:
        labels: Shape (H, W), train ids; what is beyond the palette is painted black.
        palette: An RGB colour a class.

    Returns:
        Shape (H, W, 3), BGR uint8.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)[:, ::-1]
    return table[labels.astype(np.uint8)]


def save_triptych(
    path: Path,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    palette: Sequence[Sequence[int]],
) -> None:
    """Write input | ground truth | prediction as one PNG.

    Args:
        path: The file; its folder is made where it is missing.
        image: Shape (H, W, 3), BGR uint8.
        truth: Shape (H, W), train ids, 255 ignored.
        prediction: Shape (H, W), train ids.
        palette: An RGB colour a class.

    Raises:
        OSError: If the file cannot be written.
    """
    gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
    panes = [image, gap, paint(truth, palette), gap, paint(prediction, palette)]
    encoded = cv2.imencode('.png', np.hstack(panes))[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())
