"""The operation of the extension refuses inputs that it would read wrongly."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from repvgg_runtime.kernels import build
from tests.needs import needs_compiler

openvino = pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
node_factory = pytest.importorskip('openvino.utils.node_factory')
ops = pytest.importorskip('openvino.opset13')

pytestmark = needs_compiler


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


HELD = """
import gc, sys
import numpy as np
from openvino import Core, opset13 as ops
from openvino.utils.node_factory import NodeFactory
first, second = sys.argv[1:]
core = Core()
core.add_extension(first)
factory = NodeFactory()
factory.add_extension(second)
inputs = [
    ops.parameter((1, -1, -1, 4), np.float32),
    ops.constant(np.zeros(288, np.float32)),
    ops.constant(np.zeros(8, np.float32)),
]
attributes = dict(out_channels=8, groups=1, dilation=1, relu=True)
outputs = [each.output(0) for each in inputs]
node = factory.create('WinogradConvolution', outputs, attributes)
del core, factory
gc.collect()
print(node.get_attributes()['out_channels'])
"""


def test_an_operation_outlives_what_created_it(tmp_path):
    """Without -z nodelete, the second of two copies is unloaded with its factory."""
    build.save_openvino_extension(tmp_path / 'first.so')
    shutil.copy(tmp_path / 'first.so', tmp_path / 'second.so')
    copies = [tmp_path / 'first.so', tmp_path / 'second.so']
    done = subprocess.run(
        [sys.executable, '-c', HELD, *copies], capture_output=True, text=True, timeout=900
    )
    assert (done.returncode, done.stdout) == (0, '8\n'), done.stderr
