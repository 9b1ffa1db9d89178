"""Recall of the connected regions of the truth, by their size."""

from collections.abc import Iterator

import cv2
import numpy as np

SIZE_EDGES = (0, 8, 16, 32, 96, 256)
"""Square roots of the areas in pixels at which a group of sizes begins.

COCO calls objects below 32x32 pixels small and those from 96x96 on large (Lin et al.,
"Microsoft COCO", ECCV 2014).
"""

SMALL, LARGE = SIZE_EDGES.index(32), SIZE_EDGES.index(96)
"""Small regions are in the groups before the first, large ones from the second on."""

FOUND = 0.5
"""Recall from which a region counts as found."""

_AREAS = np.square(SIZE_EDGES)


class RegionRecall:
    """Sums over regions, for each class and group of sizes.

    A region is a set of pixels of one class in the truth, connected over edges or
    corners. Its recall is the share of them with the right label.

    Attributes:
        regions: Shape (classes, groups), number of regions.
        found: Shape (classes, groups), number of those with a recall of :data:`FOUND`.
        pixels: Shape (classes, groups), their pixels.
        correct: Shape (classes, groups), their pixels with the right label.
    """

    def __init__(self, classes: int) -> None:
        shape = (classes, len(SIZE_EDGES))
        self.regions, self.found, self.pixels, self.correct = (
            np.zeros(shape, np.int64) for _ in range(4)
        )

    def add(self, truth: np.ndarray, labels: np.ndarray) -> None:
        """Add an image.

        Args:
            truth: Shape (H, W), label ids from 0 on; pixels of others than the classes
                are in no region.
            labels: Shape (H, W), the predicted ids.
        """
        correct = truth == labels
        for label, areas, hits in _regions(truth, correct, len(self.regions)):
            group = np.searchsorted(_AREAS, areas, 'right') - 1
            sums = (
                (self.regions, None),
                (self.found, hits >= FOUND * areas),
                (self.pixels, areas),
                (self.correct, hits),
            )
            for total, weights in sums:
                counts = np.bincount(group, weights, len(SIZE_EDGES))
                total[label] += counts.astype(np.int64)


def _regions(
    truth: np.ndarray, correct: np.ndarray, classes: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each class with the areas and the correct pixels of its regions."""
    for label in np.flatnonzero(np.bincount(truth.ravel(), minlength=classes)[:classes]):
        mask = (truth == label).view(np.uint8)
        # Most classes fill a part of the image only.
        left, top, width, height = cv2.boundingRect(mask)
        box = np.s_[top : top + height, left : left + width]
        count, regions = cv2.connectedComponents(mask[box], connectivity=8)
        areas = np.bincount(regions.ravel(), minlength=count)[1:]
        hits = np.bincount(regions[correct[box]], minlength=count)[1:]
        yield int(label), areas, hits
