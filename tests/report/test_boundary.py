"""Distances to boundaries are those that a search over all pixels finds."""

import numpy as np
import pytest

from mmseg_repvgg.report.boundary import BAND_EDGES, boundary, distance_bands


def distances(labels):
    """Return the distance of each pixel to the nearest that touches another label."""
    height, width = labels.shape
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float64)
    touching = [
        (y, x)
        for y in range(height)
        for x in range(width)
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if 0 <= y + dy < height
        and 0 <= x + dx < width
        and labels[y + dy, x + dx] != labels[y, x]
    ]
    offsets = places[:, None] - np.array(touching)[None]
    return np.sqrt((offsets**2).sum(-1)).min(1).reshape(labels.shape)


@pytest.mark.parametrize('seed', range(3))
def test_bands_are_those_of_a_search(seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((60, 90), np.int32)
    for _ in range(3):
        y, x, size = rng.integers(0, 30), rng.integers(0, 40), rng.integers(1, 20)
        labels[y : y + size, x : x + size] = rng.choice([1, 2, 255])
    found, expected = distance_bands(labels), distances(labels)
    assert np.array_equal(boundary(labels), expected == 0)
    assert len(set(found.flat)) == len(BAND_EDGES)
    for band, low, high in zip(range(9), BAND_EDGES, [*BAND_EDGES[1:], np.inf]):
        assert np.array_equal(found == band, (expected >= low) & (expected < high))


def test_map_of_one_label_is_interior():
    assert (distance_bands(np.full((5, 7), 3)) == len(BAND_EDGES) - 1).all()
