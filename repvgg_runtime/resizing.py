"""Resize images and logits as mmseg does, without torch."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt


def scaled_size(
    size: tuple[int, int], scale: tuple[int, int], keep_ratio: bool
) -> tuple[int, int]:
    """Return the size of an image after mmcv's ``Resize``.

    Args:
        size: Height and width of the image.
        scale: Width and height to fit, in either order if the ratio is kept.
        keep_ratio: Whether the aspect ratio is kept.

    Returns:
        Height and width.
    """
    if not keep_ratio:
        return scale[1], scale[0]
    factor = min(max(scale) / max(size), min(scale) / min(size))
    height, width = (max(1, int(side * factor + 0.5)) for side in size)
    return height, width


def resize_image(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize an image (H, W, C) by bilinear interpolation to a height and width."""
    if image.shape[:2] == size:
        return image
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*size, -1)  # OpenCV drops an axis of one band.


def resize_labels(labels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize a label map (H, W) to a height and width, without new labels."""
    if labels.shape == size:
        return labels
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)


def resize_logits(
    logits: npt.NDArray[np.float32], size: tuple[int, int], align_corners: bool
) -> npt.NDArray[np.float32]:
    """Resize logits as ``torch.nn.functional.interpolate`` does in mode ``bilinear``.

    Args:
        logits: Shape (C, h, w).
        size: Height and width of the result.
        align_corners: As there.

    Returns:
        Shape (C, H, W).
    """
    for axis, length in zip((1, 2), size):
        if logits.shape[axis] != length:
            logits = _interpolate(logits, axis, length, align_corners)
    return logits


def _interpolate(
    values: npt.NDArray[np.float32], axis: int, length: int, align_corners: bool
) -> npt.NDArray[np.float32]:
    before = values.shape[axis]
    where = np.arange(length, dtype=np.float64)
    if align_corners:
        where *= (before - 1) / max(length - 1, 1)
    else:
        where = (where + 0.5) * before / length - 0.5
    where = where.clip(0, before - 1)
    low = where.astype(np.intp)
    high = np.minimum(low + 1, before - 1)
    shape = [1, 1, 1]
    shape[axis] = length
    weight = (where - low).astype(np.float32).reshape(shape)
    left = values.take(low, axis)
    return left + weight * (values.take(high, axis) - left)
