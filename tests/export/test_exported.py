import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.utils import digit_version
from mmseg.registry import MODELS

from mmseg_repvgg import __version__, deploy
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.errors import (
    ConfigError,
    ExportError,
    ExtraError,
    WriteError,
)
from mmseg_repvgg.export import graph, pooling
from mmseg_repvgg.export.exported import export, require_other_file
from mmseg_repvgg.export.verify import reference, smooth_noise, verify
from mmseg_repvgg.winograd import WinogradConv2d
from repvgg_runtime.backends import open_backend

onnx, openvino, *_ = (
    pytest.importorskip(package, reason="needs pip install -e '.[export]'")
    for package in ('onnx', 'openvino', 'onnxruntime', 'onnxscript')
)

SUFFIXES = {'onnx': '.onnx', 'openvino': '.xml', 'torchscript': '.pt'}
# Sizes of the paper and of mmseg's zoo, and two that no bin and no stride divides.
SIZES = [(713, 713), (512, 1024), (769, 769), (360, 480), (257, 131)]


def compare(path, model, shapes):
    noise = (smooth_noise(*shape) for shape in shapes)
    return verify(open_backend(path), deploy(model), noise)


def test_tool_does_not_overwrite_the_checkpoint(trained, tmp_path, run_tool):
    config, checkpoint = trained
    path = tmp_path / 'model.pt'
    shutil.copy(checkpoint, path)
    arguments = (config, path, '--to', 'torchscript', '--work-dir', tmp_path)
    done = run_tool('export.py', *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert f'{path} is the checkpoint itself' in done.stderr
    assert path.read_bytes() == Path(checkpoint).read_bytes()


def test_weights_of_openvino_do_not_overwrite_the_checkpoint(tmp_path):
    checkpoint = tmp_path / 'pytorch_model.bin'
    checkpoint.touch()
    with pytest.raises(ConfigError, match='pytorch_model.bin is the checkpoint itself'):
        require_other_file(tmp_path / 'pytorch_model.xml', str(checkpoint))
    require_other_file(tmp_path / 'other.xml', str(checkpoint))
    # Reading the checkpoint says that it does not exist.
    require_other_file(checkpoint, 'gone.pth')


@pytest.mark.parametrize('to', SUFFIXES)
def test_file_gives_the_labels_of_raw_images(
    cfg, model, repo, tmp_path, to, assert_best_labels
):
    path = tmp_path / f'small{SUFFIXES[to]}'
    done = export(cfg, model, path, to, size=(67, 45), normalize=True)
    assert done.agreement.logit_error < 1e-5
    names = {path.name, 'small.bin'} if to == 'openvino' else {path.name}
    assert {file.name for file in tmp_path.glob('small*')} == names
    assert not list(tmp_path.glob('.*'))
    assert done.megabytes == pytest.approx(
        sum((tmp_path / name).stat().st_size for name in names) / 1e6
    )
    # No path of the exporting machine is stored.
    assert not any(str(repo).encode() in (tmp_path / name).read_bytes() for name in names)

    backend = open_backend(path)
    assert backend.metadata == done.metadata
    images = smooth_noise(1, 67, 45)
    labels = backend(images)
    assert labels.dtype == np.uint8
    _, logits = reference(deploy(model), images)
    assert len(logits.argmax(1).unique()) > 3
    assert_best_labels(labels[0], logits[0].numpy(), 1e-4)

    with pytest.raises(ConfigError, match='1x3x67x45, but got 1x3x45x67'):
        backend(images.transpose(0, 1, 3, 2))
    with pytest.raises(ConfigError, match='takes uint8, but got float32'):
        backend(images.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize('to', SUFFIXES)
def test_dynamic_file_takes_any_batch_and_size(cfg, model, tmp_path, to):
    path = tmp_path / f'small{SUFFIXES[to]}'
    done = export(cfg, model, path, to, dynamic=True, output='logits', size=(40, 72))
    assert set(done.shapes) >= {(1, 40, 72), (1, 1, 1)}
    assert len({batch for batch, *_ in done.shapes}) > 2
    assert open_backend(path).metadata.shape == (None, 3, None, None)
    # None of these was compared during export.
    agreement = compare(path, model, [(4, 33, 50), (1, 1, 17), (2, 8, 9)])
    assert agreement.logit_error < 1e-5
    agreement = compare(path, model, [(1, *size) for size in SIZES])
    assert agreement.logit_error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('to', ['onnx', 'openvino'])
def test_fixed_sizes_are_exact(cfg, model, tmp_path, to, size):
    path = tmp_path / f'x{SUFFIXES[to]}'
    done = export(cfg, model, path, to, size=size, output='logits')
    assert done.agreement.logit_error < 1e-5


def dilations(path):
    """Return the dilation of each convolution of a file, and the number of masks."""
    if path.suffix == '.onnx':
        nodes = onnx.load(path).graph.node
        attributes = [
            {a.name: list(a.ints) for a in node.attribute}
            for node in nodes
            if node.op_type == 'Conv'
        ]
        masks = sum(node.op_type == 'Mul' for node in nodes)
        return [each['dilations'] for each in attributes], masks
    if path.suffix == '.xml':
        operations = openvino.Core().read_model(path).get_ops()
        convs = [op for op in operations if 'Convolution' in op.get_type_name()]
        masks = sum(op.get_type_name() == 'Multiply' for op in operations)
        return [list(op.get_attributes()['dilations']) for op in convs], masks
    graph = torch.jit.load(path).inlined_graph
    convs = graph.findAllNodes('aten::_convolution')
    masks = len(graph.findAllNodes('aten::mul'))
    found = [list(node.inputs())[5].node().inputs() for node in convs]
    return [[value.toIValue() for value in values] for values in found], masks


@pytest.mark.parametrize('to', SUFFIXES)
def test_phases_leave_no_dilated_convolution(cfg, model, tmp_path, to):
    path = tmp_path / f'x{SUFFIXES[to]}'
    counts = {}
    for engine in ('torch', 'phases'):
        done = export(cfg, model, path, to, size=(64, 96), output='logits', engine=engine)
        assert done.agreement.logit_error < 1e-5
        assert open_backend(path).metadata.engine == engine
        found, masks = dilations(path)
        assert any(max(each) > 1 for each in found) == (engine == 'torch')
        counts[engine] = len(found), masks
    # Where the dilation divides the size, no padding has to be set to zero.
    traced = to == 'torchscript' or digit_version(torch.__version__) < digit_version(
        '2.6'
    )
    if not traced:
        assert counts['phases'] == counts['torch']


@pytest.mark.slow
@pytest.mark.parametrize('to', ['onnx', 'torchscript'])
def test_phases_with_open_sizes(cfg, model, tmp_path, to):
    path = tmp_path / f'x{SUFFIXES[to]}'
    options = dict(dynamic=True, output='logits', engine='phases')
    export(cfg, model, path, to, **options)
    agreement = compare(path, model, [(4, 33, 50), (1, 1, 17), (2, 64, 96)])
    assert agreement.logit_error < 1e-5
    assert max(max(each) for each in dilations(path)[0]) == 1


def test_onnx_file_stores_its_metadata(cfg, model, tmp_path):
    path = tmp_path / 'small.onnx'
    export(cfg, model, path, 'onnx', size=(32, 40), batch=2, output='logits', opset=17)
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    assert [entry.version for entry in written.opset_import] == [17]
    assert [value.name for value in written.graph.output] == ['logits']
    facts = {p.key: json.loads(p.value) for p in written.metadata_props}
    assert facts['shape'] == [2, 3, 32, 40]
    assert facts['classes'][:2] == ['road', 'sidewalk']
    assert facts['palette'][0] == [128, 64, 128]
    assert (facts['channels'], facts['network_channels']) == ('RGB', 'RGB')
    assert (facts['mean'][0], facts['std'][0]) == (123.675, 58.395)
    assert (facts['backbone'], facts['dilation']) == ('RepVGG', 'full')
    assert facts['arch']['depths'] == [1, 2, 2, 1]
    assert (facts['version'], facts['output']) == (__version__, 'logits')
    # A fused model has one conv a layer and adds no branches.
    assert sum(node.op_type == 'Add' for node in written.graph.node) == 0


def test_openvino_file_stores_float32_weights(cfg, model, tmp_path):
    export(cfg, model, tmp_path / 'x.xml', 'openvino', size=(32, 40), output='logits')
    written = openvino.Core().read_model(tmp_path / 'x.xml')
    types = {
        op.get_element_type().get_type_name()
        for op in written.get_ops()
        if op.get_type_name() == 'Constant' and np.prod(op.shape) > 1000
    }
    assert types == {'f32'}


@pytest.mark.slow
def test_winograd_model_is_exported_with_plain_convs(cfg, model, tmp_path):
    fast = deploy(model, 'winograd')
    before = [m for m in fast.modules() if isinstance(m, WinogradConv2d)]
    assert before
    paths = {}
    for name, network in {'plain': model, 'fast': fast}.items():
        paths[name] = tmp_path / f'{name}.onnx'
        export(cfg, network, paths[name], 'onnx', size=(64, 96), output='logits')
    graphs = {name: onnx.load(path).graph for name, path in paths.items()}
    types = {name: sorted(n.op_type for n in g.node) for name, g in graphs.items()}
    assert types['fast'] == types['plain']
    assert 'Conv' in types['fast']
    inputs, _ = reference(model, smooth_noise(1, 64, 96))
    plain, ours = (open_backend(paths[name])(inputs.numpy()) for name in paths)
    assert np.array_equal(plain, ours)
    assert [m for m in fast.modules() if isinstance(m, WinogradConv2d)] == before


def test_head_that_returns_a_tuple_is_exported(cfg, tmp_path, randomize_norms):
    cfg.model.decode_head = dict(
        type='EncHead',
        in_channels=[64, 128],
        in_index=[2, 3],
        channels=16,
        num_codes=4,
        num_classes=19,
        norm_cfg=dict(type='BN'),
    )
    model = randomize_norms(MODELS.build(cfg.model)).eval()
    model.dataset_meta = {}
    export(cfg, model, tmp_path / 'x.pt', 'torchscript', size=(33, 65))


def test_fused_checkpoint_is_exported(cfg, model, tmp_path):
    torch.save(deploy(model).state_dict(), tmp_path / 'fused.pth')
    fused = load_model(cfg, str(tmp_path / 'fused.pth'))
    done = export(cfg, fused, tmp_path / 'x.pt', 'torchscript', size=(33, 17))
    assert compare(done.path, model, [(1, 33, 17)]).label_error == 0


# Wrong files are not saved ------------------------------------------------------------


def average_all(length, bins, like):
    return torch.full((bins, length), 1 / length, dtype=like.dtype)


@pytest.mark.parametrize('to', SUFFIXES)
def test_wrong_pooling_is_found(cfg, model, tmp_path, monkeypatch, to):
    path = tmp_path / f'small{SUFFIXES[to]}'
    path.write_text('old')
    monkeypatch.setattr(pooling, 'bin_matrix', average_all)
    with pytest.raises(ExportError, match='does not compute what the fused model compu'):
        export(cfg, model, path, to, size=(61, 45))
    assert path.read_text() == 'old'
    assert [file.name for file in tmp_path.glob('*small*')] == [path.name]


@pytest.mark.parametrize('dynamic', [False, True])
def test_wrong_normalization_is_found(cfg, model, tmp_path, monkeypatch, dynamic):
    monkeypatch.setattr(graph.SegmentorGraph, 'normalize', lambda self, x: x.float())
    options = dict(size=(61, 45), dynamic=dynamic, normalize=True)
    with pytest.raises(ExportError, match='relative error of the logits'):
        export(cfg, model, tmp_path / 'x.pt', 'torchscript', **options)
    assert not list(tmp_path.glob('*x*'))


def test_file_that_does_not_run_is_not_saved(cfg, model, tmp_path, monkeypatch):
    def forward(self, image):
        return self.network.decode_head(self.network.extract_feat(image))[:, :, 4:, 4:]

    monkeypatch.setattr(graph.SegmentorGraph, 'forward', forward)
    path = tmp_path / 'x.pt'
    with pytest.raises(ExportError, match='of shape .1, 19, 2, 4., but the model gives'):
        export(cfg, model, path, 'torchscript', size=(48, 64), output='logits')
    monkeypatch.setattr(
        'repvgg_runtime.backends.TorchScriptBackend._run', lambda *_: 1 / 0
    )
    with pytest.raises(ExportError, match='cannot be run on .* division by zero'):
        export(cfg, model, path, 'torchscript', size=(48, 64), output='logits')
    assert not list(tmp_path.glob('*x*'))


def test_nan_is_found(cfg, model, tmp_path):
    with torch.no_grad():
        model.decode_head.conv_seg.bias[0] = torch.nan
    with pytest.raises(ExportError, match='error of the logits nan'):
        export(cfg, model, tmp_path / 'x.pt', 'torchscript', size=(61, 45))
    assert not list(tmp_path.glob('*x*'))


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'to', 'options', 'says'),
    [
        ('x.pt', 'torchscript', dict(size=(0, 16)), '1x1 pixels.*got a size of .0, 16.'),
        ('x.pt', 'torchscript', dict(size=(8, 8), batch=0), 'a batch of 0'),
        ('x.pt', 'torchscript', dict(), 'give --size H W, or --dynamic'),
        ('x.pt', 'torchscript', dict(dynamic=True, opset=18), 'no opset'),
        ('x.onnx', 'onnx', dict(dynamic=True, opset=16), 'at least 17, but got 16'),
        ('x.onnx', 'onnx', dict(size=(8, 8), opset=99), 'not 99: give a smaller --opset'),
        ('x.xml', 'onnx', dict(dynamic=True), r'--out must end in \.onnx for onnx'),
        ('x.pt', 'tflite', dict(dynamic=True), "onnx, openvino, torchscript.*'tflite'"),
        ('x.pt', 'torchscript', dict(dynamic=True, output='softmax'), "'softmax'"),
    ],
)
def test_bad_arguments_are_refused(cfg, model, tmp_path, name, to, options, says):
    with pytest.raises(ConfigError, match=says):
        export(cfg, model, tmp_path / name, to, **options)
    assert not list(tmp_path.glob('*x*'))


def test_head_with_a_fixed_size_is_refused(cfg, model, tmp_path, monkeypatch):
    def fixed(x, like, align_corners):
        height, width = map(int, like.shape[2:])
        return torch.nn.functional.interpolate(x, (height, width), mode='bilinear')

    monkeypatch.setattr(graph, 'upsample', fixed)
    error, says = ConfigError, 'cannot leave the .*width of this model open'
    if digit_version(torch.__version__) < digit_version('2.6'):
        # Its exporter stores the size as a constant, which the comparison finds.
        error, says = ExportError, 'of shape .1, 19, 97, 65., but the model gives'
    with pytest.raises(error, match=says):
        export(cfg, model, tmp_path / 'x.onnx', 'onnx', dynamic=True)
    assert not list(tmp_path.glob('*x*'))


def test_unsupported_models_are_refused(cfg, model, tmp_path):
    path = tmp_path / 'x.pt'
    model.out_channels = 1
    with pytest.raises(ConfigError, match='threshold'):
        export(cfg, model, path, 'torchscript', size=(8, 8))
    cfg.model.backbone.in_channels = 4
    with pytest.raises(ConfigError, match='takes 4: leave out --normalize'):
        export(cfg, model, path, 'torchscript', size=(8, 8), normalize=True)
    cfg.model.backbone.in_channels = 3
    cfg.model.data_preprocessor = None
    with pytest.raises(ConfigError, match='does not normalize'):
        export(cfg, model, path, 'torchscript', size=(8, 8), normalize=True)


def test_cascaded_heads_are_refused(cfg, tmp_path):
    head = cfg.model.decode_head
    second = dict(head, type='OCRHead', ocr_channels=8)
    del second['pool_scales']
    cfg.model.update(type='CascadeEncoderDecoder', num_stages=2)
    cfg.model.decode_head = [head, second]
    model = MODELS.build(cfg.model).eval()
    model.dataset_meta = {}
    with pytest.raises(ConfigError, match='one decode head.*CascadeEncoderDecoder'):
        export(cfg, model, tmp_path / 'x.pt', 'torchscript', size=(8, 8))


@pytest.mark.parametrize(
    ('package', 'to'),
    [('onnx', 'onnx'), ('onnxruntime', 'onnx'), ('openvino', 'openvino')],
)
def test_missing_package_is_named(cfg, model, tmp_path, monkeypatch, package, to):
    monkeypatch.setitem(sys.modules, package, None)
    if package == 'onnxruntime':
        monkeypatch.setattr(
            graph.SegmentorGraph, 'forward', lambda self, image: image.mean(1)
        )
    with pytest.raises(ExtraError, match=rf"{package} .*'mmseg_repvgg\[export\]'"):
        export(cfg, model, tmp_path / f'x{SUFFIXES[to]}', to, size=(8, 8))
    assert not list(tmp_path.glob('*x*'))


@pytest.mark.parametrize('to', SUFFIXES)
def test_full_disk_is_an_error(cfg, model, tmp_path, to, full_disk):
    # A graph fits, weights do not.
    with full_disk(300_000), pytest.raises(WriteError, match='cannot be written'):
        export(cfg, model, tmp_path / f'x{SUFFIXES[to]}', to, size=(16, 16))
    assert not list(tmp_path.glob('*x*'))


def test_folder_that_cannot_be_written_is_an_error(cfg, model, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(WriteError, match='cannot be written'):
        export(cfg, model, tmp_path / 'file' / 'x.pt', 'torchscript', size=(16, 16))
