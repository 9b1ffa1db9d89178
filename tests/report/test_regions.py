"""Regions are those that a flood fill finds."""

import numpy as np
import pytest

from mmseg_repvgg.report.regions import FOUND, SIZE_EDGES, RegionRecall


def flood(truth):
    """Return the lists of pixels of the regions, connected over edges or corners."""
    left = {(y, x) for y, x in np.ndindex(truth.shape) if truth[y, x] != 255}
    regions = []
    while left:
        waiting, region = [left.pop()], []
        while waiting:
            y, x = waiting.pop()
            region.append((y, x))
            for near in np.ndindex(3, 3):
                place = (y + near[0] - 1, x + near[1] - 1)
                if place in left and truth[place] == truth[y, x]:
                    left.remove(place)
                    waiting.append(place)
        regions.append(region)
    return regions


@pytest.mark.parametrize('seed', range(2))
def test_sums_are_those_of_a_flood_fill(make_segmented, seed):
    image = make_segmented(seed, (72, 80), error=0.4)
    found = RegionRecall(4)
    found.add(image.truth, image.labels)
    expected = np.zeros((4, 4, len(SIZE_EDGES)))
    for region in flood(image.truth):
        label = image.truth[region[0]]
        group = sum(len(region) >= edge**2 for edge in SIZE_EDGES) - 1
        correct = sum(image.labels[place] == label for place in region)
        sums = [1, correct >= FOUND * len(region), len(region), correct]
        expected[:, label, group] += sums
    assert (expected[0].sum(0) > 0).sum() >= 3
    for sums, total in zip(vars(found).values(), expected):
        assert np.array_equal(sums, total)


@pytest.mark.parametrize('group', range(1, len(SIZE_EDGES)))
def test_square_of_an_edge_begins_a_group(group):
    found = RegionRecall(1)
    square = np.zeros((SIZE_EDGES[group], SIZE_EDGES[group]), np.int32)
    found.add(square, square)
    assert np.flatnonzero(found.regions[0]) == [group]
    found.add(square[1:], square[1:])
    assert found.regions[0, group - 1] == 1


def test_images_add_up(make_segmented):
    both, parts = RegionRecall(4), [RegionRecall(4) for _ in range(2)]
    for seed, part in enumerate(parts):
        image = make_segmented(seed)
        both.add(image.truth, image.labels)
        part.add(image.truth, image.labels)
    for key, total in vars(both).items():
        assert np.array_equal(total, sum(vars(part)[key] for part in parts))
