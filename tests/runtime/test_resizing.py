"""Resizing without torch equals that of torch and mmcv."""

import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repvgg_runtime.resizing import (
    resize_image,
    resize_labels,
    resize_logits,
    scaled_size,
)

SIZES = [(7, 11), (1, 1), (40, 3), (16, 32), (5, 5)]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', SIZES)
def test_logits_are_interpolated_as_by_torch(size, align_corners):
    logits = np.random.default_rng(0).normal(size=(3, 5, 9)).astype(np.float32)
    expected = F.interpolate(
        torch.from_numpy(logits)[None],
        size,
        mode='bilinear',
        align_corners=align_corners,
    )[0]
    found = resize_logits(logits, size, align_corners)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize('scale', [(241, 181), (181, 241), (100, 100)])
@pytest.mark.parametrize('size', [(360, 480), (480, 360), (37, 1001)])
def test_an_image_is_resized_as_by_mmcv(size, scale):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    kept = mmcv.imrescale(image, scale)
    assert scaled_size(size, scale, True) == kept.shape[:2]
    assert np.array_equal(resize_image(image, kept.shape[:2]), kept)
    found = resize_image(image[..., 1:2], kept.shape[:2])
    assert np.array_equal(found, kept[..., 1:2])
    stretched = mmcv.imresize(image, scale)
    assert scaled_size(size, scale, False) == stretched.shape[:2]
    assert np.array_equal(resize_image(image, stretched.shape[:2]), stretched)


def test_labels_do_not_mix():
    labels = np.array([[0, 9], [9, 0]], np.uint8)
    found = resize_labels(labels, (5, 7))
    assert found.shape == (5, 7)
    assert set(np.unique(found)) == {0, 9}


def test_no_side_vanishes():
    assert scaled_size((1, 5000), (512, 512), True) == (1, 512)
