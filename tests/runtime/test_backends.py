"""Exported files compute the same from several threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from repvgg_runtime.segmenter import ExportedSegmenter


@pytest.mark.parametrize('to', ['onnx', 'openvino'])
def test_threads_may_share_a_file(exported, to):
    segmenter = ExportedSegmenter(exported(to, output='labels'), threads=1)
    images = [
        np.random.default_rng(seed).integers(0, 256, (32, 64, 3), np.uint8)
        for seed in range(24)
    ]
    expected = [segmenter(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for found, want in zip(pool.map(segmenter, images), expected):
            assert np.array_equal(found, want)
