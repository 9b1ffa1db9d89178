"""Write pictures of predictions: input | ground truth | prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.painting import paint, side_by_side

__all__ = ['paint', 'save_triptych']


def save_triptych(
    path: Path,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    palette: Sequence[Sequence[int]],
) -> None:
    """Write input | ground truth | prediction as one PNG.

    Args:
        path: The file; missing folders are made.
        image: Shape (H, W, 3), BGR uint8.
        truth: Shape (H, W), training ids, 255 ignored.
        prediction: Shape (H, W), training ids.
        palette: An RGB colour for each class.

    Raises:
        WriteError: If the file cannot be written.
    """
    encoded = cv2.imencode('.png', side_by_side(image, [truth, prediction], palette))[1]
    write_atomically(path, encoded.tobytes())
