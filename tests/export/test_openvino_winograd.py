"""OpenVINO files whose 3x3 convolutions are Winograd's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.load_model import dataset_meta
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.exported import export
from mmseg_repvgg.export.verify import reference, smooth_noise, verify
from mmseg_repvgg.winograd import WinogradConv2d
from repvgg_runtime.backends import open_backend
from repvgg_runtime.kernels import build

openvino = pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
pytest.importorskip('onnxscript', reason="needs pip install -e '.[export]'")

REPO = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    shutil.which(build._compiler()[0]) is None,
    reason='there is no C++ compiler (g++, or what CXX names)',
)


@pytest.fixture(scope='module')
def net(street_root, small_street_config, randomize_norms, tmp_path_factory):
    """A config and a segmentor with grouped, dilated and ordinary 3x3 convolutions."""
    init_default_scope('mmseg')
    cfg = small_street_config(street_root, tmp_path_factory.mktemp('winograd'))
    arch = dict(depths=(1, 2, 2, 1), a=0.5, b=0.25, groups=2)
    cfg.model.backbone.update(arch=arch, dilation='full')
    cfg.model.decode_head.update(in_channels=128, channels=32)
    cfg.model.auxiliary_head.update(in_channels=128, channels=16)
    model = randomize_norms(MODELS.build(cfg.model)).eval()
    model.dataset_meta = dataset_meta(cfg)
    return SimpleNamespace(cfg=cfg, model=model)


@pytest.fixture(scope='module')
def written(net, tmp_path_factory):
    """The result of exporting it with open sizes."""
    path = tmp_path_factory.mktemp('file') / 'x.xml'
    options = dict(dynamic=True, output='logits', engine='winograd')
    return export(net.cfg, net.model, path, 'openvino', **options)


def test_file_computes_what_the_model_computes(net, written):
    assert written.agreement.logit_error < 1e-5
    noise = (smooth_noise(*shape) for shape in [(1, 64, 96), (2, 37, 131)])
    assert verify(open_backend(written.path), deploy(net.model), noise).label_error == 0


def test_it_has_winograd_convolutions_where_the_deployed_model_has(net, written):
    deployed = deploy(net.model, 'winograd')
    deployed.auxiliary_head = None
    kinds = [type(module) for module in deployed.modules()]
    by_winograd = sum(issubclass(kind, WinogradConv2d) for kind in kinds)
    others = sum(issubclass(kind, nn.Conv2d) for kind in kinds)
    text = written.path.read_text()
    assert text.count('type="WinogradConvolution"') == by_winograd > 4
    direct = sum(text.count(f'type="{kind}onvolution"') for kind in ('C', 'GroupC'))
    assert direct == others
    assert written.metadata.engine == 'winograd'


def test_between_two_of_them_nothing_is_transposed(written):
    core = openvino.Core()
    build.add_openvino_extension(core)
    chained = 0
    for operation in core.read_model(written.path).get_ops():
        if operation.get_type_name() == 'WinogradConvolution':
            source = operation.input_value(0).get_node()
            chained += source.get_type_name() == 'WinogradConvolution'
            if source.get_type_name() == 'Transpose':
                before = source.input_value(0).get_node().get_type_name()
                assert before != 'Transpose'
    # Four layers of the last two stages follow each other.
    assert chained == 3


def test_labels_and_raw_images(net, tmp_path):
    options = dict(size=(67, 45), normalize=True, engine='winograd')
    done = export(net.cfg, net.model, tmp_path / 'x.xml', 'openvino', **options)
    images = smooth_noise(1, 67, 45)
    labels = open_backend(done.path)(images)
    _, logits = reference(deploy(net.model), images)
    assert (labels != logits.argmax(1).numpy()).mean() < 1e-3


def test_without_the_extension_openvino_names_the_operation(written):
    with pytest.raises(RuntimeError, match='WinogradConvolution'):
        openvino.Core().read_model(written.path)


def test_without_a_compiler_the_error_names_it(written, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(ConfigError, match='there is no no-such-compiler. Install g'):
        open_backend(written.path)


@pytest.mark.parametrize('to', ['onnx', 'torchscript'])
def test_other_formats_have_no_such_engine(net, tmp_path, to):
    suffix = dict(onnx='.onnx', torchscript='.pt')[to]
    with pytest.raises(ConfigError, match='only OpenVINO files have --engine winograd'):
        export(
            net.cfg,
            net.model,
            tmp_path / f'x{suffix}',
            to,
            size=(32, 32),
            engine='winograd',
        )
    assert not list(tmp_path.iterdir())


def test_runs_without_torch(written):
    code = f"""
import sys
sys.modules['torch'] = sys.modules['mmseg_repvgg'] = None
import numpy
from repvgg_runtime.segmenter import ExportedSegmenter
segmenter = ExportedSegmenter({str(written.path)!r}, threads=2)
print(segmenter(numpy.zeros((40, 50, 3), numpy.uint8)).shape)
"""
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.stdout == '(40, 50)\n', done.stderr


@pytest.mark.isa
def test_program_in_c_plus_plus_loads_the_library_that_the_tool_writes(net, tmp_path):
    options = dict(size=(40, 56), output='logits', engine='winograd')
    done = export(net.cfg, net.model, tmp_path / 'x.xml', 'openvino', **options)
    inputs, logits = reference(deploy(net.model), smooth_noise(1, 40, 56))
    for name, numbers in {'images': inputs, 'logits': logits}.items():
        np.ascontiguousarray(numbers.numpy()).tofile(tmp_path / name)
    extension = tmp_path / 'winograd.so'
    tool = [sys.executable, str(REPO / 'tools' / 'openvino_extension.py'), str(extension)]
    subprocess.run(tool, check=True)
    root = Path(openvino.__file__).parent
    libraries = build.openvino_extension().linking
    source = Path(__file__).with_name('openvino_program.cpp')
    program = tmp_path / 'program'
    subprocess.run(
        [
            *(*build._compiler(), '-std=c++17', '-w', f'-I{root / "include"}'),
            *(str(source), *libraries, '-o', str(program)),
        ],
        check=True,
    )
    ran = subprocess.run(
        [program, extension, done.path, tmp_path / 'images', tmp_path / 'logits'],
        env={**os.environ, 'LD_LIBRARY_PATH': str(root / 'libs')},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
