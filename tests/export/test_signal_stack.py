import sys

import pytest

from mmseg_repvgg.export.quantized import quantize
from repvgg_runtime.backends import open_backend
from repvgg_runtime.signal_stack import current_signal_stack

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'nncf'):
    pytest.importorskip(package, reason="needs pip install -e '.[export,quantize]'")


@pytest.mark.skipif(sys.platform != 'linux', reason='OpenVINO replaces it on Linux only')
def test_openvino_leaves_the_signal_stack_as_it_was(int8, tmp_path):
    cfg, model, done = int8
    before = bytes(current_signal_stack())
    quantize(cfg, model, tmp_path / 'x.xml', size=(64, 128), images=1)
    assert bytes(current_signal_stack()) == before
    first, second = open_backend(done.path), open_backend(done.path)
    assert bytes(current_signal_stack()) == before
    del first
    del second
    assert bytes(current_signal_stack()) == before
