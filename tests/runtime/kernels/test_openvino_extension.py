"""The operation of the extension refuses inputs that it would read wrongly."""

import shutil

import numpy as np
import pytest

from repvgg_runtime.kernels import build

openvino = pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
node_factory = pytest.importorskip('openvino.utils.node_factory')
ops = pytest.importorskip('openvino.opset13')

pytestmark = pytest.mark.skipif(
    shutil.which(build._compiler()[0]) is None,
    reason='there is no C++ compiler (g++, or what CXX names)',
)


@pytest.fixture(scope='module')
def factory():
    factory = node_factory.NodeFactory()
    build.add_openvino_extension(factory)
    return factory


def create(factory, shape=(1, -1, -1, 4), kind=np.float32, weights=144, biases=8, **more):
    attributes = dict(out_channels=8, groups=2, dilation=1, relu=True)
    inputs = [
        ops.parameter(shape, kind),
        ops.constant(np.zeros(weights, np.float32)),
        ops.constant(np.zeros(biases, np.float32)),
    ]
    outputs = [each.output(0) for each in inputs]
    return factory.create('WinogradConvolution', outputs, {**attributes, **more})


def test_shape_of_the_output_is_known(factory):
    output = create(factory).output(0)
    assert output.get_partial_shape() == openvino.PartialShape([1, -1, -1, 8])
    assert output.get_element_type() == openvino.Type.f32


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (dict(shape=(1, -1, 4)), 'needs images'),
        (dict(shape=(1, 9, 9, -1)), 'needs images .* of a fixed C'),
        (dict(weights=143), 'needs 144 weights and 8 biases, but got .143. and .8.'),
        (dict(biases=1), 'needs 144 weights and 8 biases, but got .144. and .1.'),
        (dict(kind=np.float16), 'needs float32, but got f16'),
        (dict(groups=3), 'cannot convolve .* to 8 channels in 3 groups'),
        (dict(groups=0), 'in 0 groups'),
        (dict(dilation=0), 'with dilation 0'),
    ],
)
def test_inputs_that_do_not_fit_are_refused(factory, options, says):
    with pytest.raises(RuntimeError, match=says):
        create(factory, **options)
