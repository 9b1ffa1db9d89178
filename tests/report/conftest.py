"""Segmented images made of noise."""

import numpy as np
import pytest

from mmseg_repvgg.report.segmented import FormDifference, Segmented

CLASSES = 4


def make_segmented(seed: int, shape=(48, 64), error=0.2, path=None, block=8) -> Segmented:
    """Return an image of blocks of labels with errors, whose upper rows are ignored."""
    rng = np.random.default_rng(seed)
    height, width = shape
    small = rng.integers(0, CLASSES, (-(-height // block), -(-width // block)))
    truth = small.repeat(block, 0).repeat(block, 1)[:height, :width].astype(np.int32)
    wrong = rng.random(shape) < error
    labels = np.where(wrong, (truth + rng.integers(1, CLASSES, shape)) % CLASSES, truth)
    truth[: height // 10] = 255
    return Segmented(
        path or f'/data/val/{seed}.png',
        rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
        truth,
        labels.astype(np.int32),
        rng.random(shape).astype(np.float32),
        FormDifference(rng.random(shape) < 0.01, 1e-6),
    )


@pytest.fixture(scope='session', name='make_segmented')
def _make_segmented():
    return make_segmented
