"""What is exported of a Winograd model is the plain convolutions."""

import numpy as np
import pytest

from mmseg_repvgg import deploy
from mmseg_repvgg.export.backends import open_backend
from mmseg_repvgg.export.exporting import export
from mmseg_repvgg.export.verify import reference, smooth_noise
from mmseg_repvgg.winograd import WinogradConv2d

onnx = pytest.importorskip('onnx', reason="needs pip install -e '.[export]'")
pytest.importorskip('onnxruntime', reason="needs pip install -e '.[export]'")


@pytest.mark.slow
def test_an_onnx_file_has_plain_convs(cfg, model, tmp_path):
    fast = deploy(model, 'winograd')
    taken = [m for m in fast.modules() if isinstance(m, WinogradConv2d)]
    assert taken
    paths = {}
    for name, network in {'plain': model, 'fast': fast}.items():
        paths[name] = tmp_path / f'{name}.onnx'
        export(cfg, network, paths[name], 'onnx', size=(64, 96), output='logits')
    graphs = {name: onnx.load(path).graph for name, path in paths.items()}
    kinds = {name: sorted(n.op_type for n in g.node) for name, g in graphs.items()}
    assert kinds['fast'] == kinds['plain']
    assert 'Conv' in kinds['fast']
    inputs, _ = reference(model, smooth_noise(1, 64, 96))
    plain, ours = (open_backend(paths[name])(inputs.numpy()) for name in paths)
    assert np.array_equal(plain, ours)
    # The model that was exported is as it was.
    assert [m for m in fast.modules() if isinstance(m, WinogradConv2d)] == taken
