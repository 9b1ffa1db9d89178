"""OpenVINO files whose 3x3 convolutions are Winograd's."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.load_model import dataset_meta
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.exported import export
from mmseg_repvgg.export.openvino_winograd import OPERATION, use_winograd
from mmseg_repvgg.export.verify import TOLERANCES, reference, smooth_noise, verify
from mmseg_repvgg.winograd import WinogradConv2d
from repvgg_runtime.backends import open_backend
from repvgg_runtime.kernels import build
from tests.needs import needs_compiler

openvino = pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
pytest.importorskip('onnxscript', reason="needs pip install -e '.[export]'")

REPO = Path(__file__).parents[2]
pytestmark = needs_compiler


@pytest.fixture(scope='module')
def net(street_root, small_street_config, randomize_norms, tmp_path_factory):
    """A config and a segmentor with grouped, dilated and ordinary 3x3 convolutions."""
    torch.manual_seed(0)
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
    verify(open_backend(written.path), deploy(net.model), noise)


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


def graph_of(conv, after):
    """Return the ``openvino.Model`` of a convolution and of what reads its output."""
    ops = openvino.opset13
    images = ops.parameter([-1, conv.in_channels, -1, -1], np.float32)
    shape = (conv.groups, -1, *conv.weight.shape[1:])
    kernel = conv.weight.detach().numpy()
    kernel = ops.constant(kernel.reshape(shape) if conv.groups > 1 else kernel)
    kernel.set_friendly_name('conv.weight')
    convolve = ops.group_convolution if conv.groups > 1 else ops.convolution
    maps = convolve(images, kernel, [1, 1], conv.padding, conv.padding, conv.dilation)
    maps.set_friendly_name('conv')
    if conv.bias is not None:
        bias = conv.bias.detach().numpy().reshape(1, -1, 1, 1)
        maps = ops.add(maps, ops.constant(bias))
    outputs = after(ops, images, maps)
    return openvino.Model([ops.result(each) for each in outputs], [images])


def compute(model, images):
    core = openvino.Core()
    settings = {'INFERENCE_PRECISION_HINT': 'f32'}
    return list(core.compile_model(model, 'CPU', settings)(images).values())


@pytest.mark.isa
@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize(
    'options',
    [dict(), dict(bias=False), dict(groups=2), dict(groups=3, padding=2, dilation=2)],
)
def test_operation_computes_the_convolution(options, relu):
    conv = nn.Conv2d(96, 192, 3, **{'padding': 1, **options}).requires_grad_(False)

    def after(ops, images, maps):
        return [ops.relu(maps) if relu else maps]

    model = graph_of(conv, after)
    assert use_winograd(model, nn.ModuleDict({'conv': conv})) == 1
    names = {each.get_type_name(): each.get_friendly_name() for each in model.get_ops()}
    assert names[OPERATION] == 'conv'
    # The bias and the ReLU are a part of it.
    assert not {'Convolution', 'GroupConvolution', 'Add', 'Relu'} & names.keys()
    for shape in [(3, 19, 5), (1, 8, 33), (2, 1, 1)]:
        images = torch.randn(shape[0], 96, *shape[1:])
        (found,) = compute(model, images.numpy())
        expected = conv.double()(images.double())
        conv.float()
        expected = (expected.relu() if relu else expected).numpy()
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.isa
@pytest.mark.parametrize('precision', ['high', 'medium'])
def test_operation_has_the_precision_of_pytorch(precision):
    conv = nn.Conv2d(160, 160, 3, padding=1).requires_grad_(False)
    images = torch.randn(1, 160, 54, 54)
    model = graph_of(conv, lambda ops, images, maps: [maps])
    assert use_winograd(model, nn.ModuleDict({'conv': conv}), precision) == 1
    (found,) = compute(model, images.numpy())
    same, exact = (WinogradConv2d(conv, name)(images) for name in (precision, 'highest'))
    difference = np.abs(found - exact.numpy()).max()
    assert np.abs(found - same.numpy()).max() < 0.1 * difference


@pytest.mark.parametrize(
    'after',
    [
        lambda ops, images, maps: [ops.relu(maps), maps],
        lambda ops, images, maps: [ops.relu(ops.add(maps, images))],
        lambda ops, images, maps: [ops.relu(ops.add(maps, ops.constant(np.float32(2))))],
    ],
    ids=['another reader', 'a sum of maps', 'another constant'],
)
def test_what_is_no_part_of_the_convolution_stays(after):
    conv = nn.Conv2d(32, 32, 3, padding=1, bias=False).requires_grad_(False)
    images = torch.randn(1, 32, 9, 11).numpy()
    model = graph_of(conv, after)
    expected = compute(model, images)
    assert use_winograd(model, nn.ModuleDict({'conv': conv})) == 1
    assert [each.get_type_name() for each in model.get_ops()].count('Relu') == 1
    for found, want in zip(compute(model, images), expected):
        assert np.abs(found - want).max() < 1e-5 * np.abs(want).max()


def test_convolution_of_no_module_stays():
    conv = nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False)
    assert use_winograd(graph_of(conv, lambda ops, images, maps: [maps]), conv) == 0


@pytest.mark.isa
def test_number_of_threads_changes_nothing(written):
    images = np.random.default_rng(0).normal(size=(2, 3, 67, 45)).astype(np.float32)
    first, *others = (open_backend(written.path, threads=n)(images) for n in (1, 2, 3))
    for each in others:
        assert np.array_equal(each, first)


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


def test_labels_and_raw_images(net, tmp_path, assert_best_labels):
    options = dict(size=(67, 45), normalize=True, engine='winograd')
    done = export(net.cfg, net.model, tmp_path / 'x.xml', 'openvino', **options)
    images = smooth_noise(1, 67, 45)
    labels = open_backend(done.path)(images)
    _, logits = reference(deploy(net.model), images)
    assert_best_labels(labels[0], logits[0].numpy(), 1e-4)


def test_without_the_extension_openvino_names_the_operation(written):
    with pytest.raises(RuntimeError, match='WinogradConvolution'):
        openvino.Core().read_model(written.path)


def test_without_a_compiler_the_error_names_it(written, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(ConfigError, match='there is no no-such-compiler. Install g'):
        open_backend(written.path)


def test_unknown_engine_is_refused(net, tmp_path):
    with pytest.raises(ConfigError, match="--engine must be one of .* but got 'fft'"):
        export(
            net.cfg, net.model, tmp_path / 'x.xml', 'openvino', dynamic=True, engine='fft'
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('precision', ['high', 'medium'])
def test_precision_is_in_the_file(net, tmp_path, precision):
    options = dict(size=(40, 56), output='logits', engine='winograd')
    path = tmp_path / 'x.xml'
    done = export(net.cfg, net.model, path, 'openvino', precision=precision, **options)
    assert done.metadata.precision == precision
    assert f'precision="{precision}"' in path.read_text()
    error = done.agreement.logit_error
    if build.library().winograd_has_matrix_units():
        least = dict(high=1e-6, medium=1e-4)[precision]
        assert least < error < TOLERANCES[precision]


def test_precision_needs_the_engine(net, tmp_path):
    with pytest.raises(ConfigError, match='--precision high needs --engine winograd'):
        export(
            *(net.cfg, net.model, tmp_path / 'x.xml', 'openvino'),
            size=(32, 32),
            precision='high',
        )


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
def test_int8_file_runs_beside_it(written, request):
    pytest.importorskip('nncf', reason="needs pip install -e '.[export,quantize]'")
    _, _, int8 = request.getfixturevalue('int8')
    paths = [written.path, int8.path] * 3
    images = smooth_noise(1, 64, 128).astype(np.float32)
    alone = {path: open_backend(path)(images) for path in paths[:2]}
    opened = {path: open_backend(path) for path in paths[:2]}
    with ThreadPoolExecutor(4) as pool:
        outputs = pool.map(lambda path: opened[path](images), paths)
        for path, output in zip(paths, outputs):
            assert np.array_equal(output, alone[path])


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
