import io

import numpy as np
import pytest
from PIL import Image

from mmseg_repvgg.export.ranges import draw_ranges
from mmseg_repvgg.reparam import deploy

for package in ('onnx', 'onnxscript', 'openvino', 'nncf'):
    pytest.importorskip(package, reason="needs pip install -e '.[export,quantize]'")


def test_ranges_are_those_of_the_weights_and_of_the_images(int8):
    _, model, done = int8
    modules = dict(deploy(model).named_modules())
    assert [each.name for each in done.ranges] == done.metadata.quantized['layers']
    for layer in done.ranges:
        if layer.name.startswith('backbone.'):
            weight = modules[layer.name].weight
            largest = weight.abs().amax((1, 2, 3)).numpy()
            # Rounding keeps the largest weight, except of channels that are almost zero.
            alive = largest > 0.02 * largest.max()
            np.testing.assert_allclose(layer.channels[alive], largest[alive], rtol=1e-4)
        assert 15 < layer.decibels < 60
    stem, *others = done.ranges
    assert stem.inputs[0] < 0 < stem.inputs[1]
    images = done.sample
    assert stem.inputs[0] < images.min() + 0.5
    assert stem.inputs[1] > images.max() - 0.5
    assert all(each.inputs[0] == 0 < each.inputs[1] for each in others)


def test_every_layer_is_drawn(int8):
    _, _, done = int8
    figure = draw_ranges(done.ranges)
    names = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert names == [layer.name for layer in done.ranges]
    drawn = figure.axes[2].patches
    assert [bar.get_height() for bar in drawn] == [each.decibels for each in done.ranges]
    file = io.BytesIO()
    figure.savefig(file, format='png')
    assert np.asarray(Image.open(file).convert('L')).std() > 10
