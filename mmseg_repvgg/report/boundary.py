"""Distance of pixels to the boundaries of the truth.

Errors by distance are the trimaps of Kohli, Ladicky and Torr, "Robust Higher Order
Potentials for Enforcing Label Consistency" (IJCV 2009), in several widths.
"""

import cv2
import numpy as np

BAND_EDGES = (0, 1, 2, 4, 8, 16, 32)
"""Distances in pixels at which a band begins; the last has no end."""

NEAR = 4
"""Distance in pixels below which the report counts a pixel as near a boundary."""

NEAR_BANDS = BAND_EDGES.index(NEAR)
"""Number of bands that are near a boundary."""

_BAND_OF = np.searchsorted(BAND_EDGES, np.arange(BAND_EDGES[-1] + 1), 'right') - 1
_BAND_OF = _BAND_OF.astype(np.uint8)


def boundary(labels: np.ndarray) -> np.ndarray:
    """Mark the pixels that have a neighbour of another label above, below or beside them.

    Ignored pixels are a label like any other.

    Args:
        labels: Shape (H, W), label ids.

    Returns:
        Shape (H, W), bool.
    """
    marked = np.zeros(labels.shape, bool)
    down = labels[1:] != labels[:-1]
    right = labels[:, 1:] != labels[:, :-1]
    marked[1:] |= down
    marked[:-1] |= down
    marked[:, 1:] |= right
    marked[:, :-1] |= right
    return marked


def distance_bands(labels: np.ndarray) -> np.ndarray:
    """Return the band of :data:`BAND_EDGES` that each pixel is in.

    The distance is Euclidean, from the pixel to the nearest pixel that :func:`boundary`
    marks, so it is 0 on both sides of a boundary.

    Args:
        labels: Shape (H, W), label ids.

    Returns:
        Shape (H, W), uint8. A map of a single label is all in the last band.
    """
    marked = boundary(labels)
    if not marked.any():
        return np.full(labels.shape, len(BAND_EDGES) - 1, np.uint8)
    distance = cv2.distanceTransform(
        (~marked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return _BAND_OF[np.minimum(distance, BAND_EDGES[-1]).astype(np.uint8)]
