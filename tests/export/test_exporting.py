import json
import resource
import sys

import numpy as np
import pytest
import torch
from mmengine.utils import digit_version
from mmseg.registry import MODELS

from mmseg_repvgg import __version__, deploy
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    ExtraError,
    WriteError,
)
from mmseg_repvgg.export import graph, pooling
from mmseg_repvgg.export.backends import open_backend
from mmseg_repvgg.export.exporting import export
from mmseg_repvgg.export.verify import reference, smooth_noise, verify

onnx, openvino, *_ = (
    pytest.importorskip(package, reason="needs pip install -e '.[export]'")
    for package in ('onnx', 'openvino', 'onnxruntime', 'onnxscript')
)

SUFFIXES = {'onnx': '.onnx', 'openvino': '.xml', 'torchscript': '.pt'}
# Those of the paper and of mmseg's zoo, and two that fit no bin and no stride.
SIZES = [(713, 713), (512, 1024), (769, 769), (360, 480), (257, 131)]


def noises(shapes):
    return (smooth_noise(*shape) for shape in shapes)


def test_noise_is_smooth_and_always_the_same():
    image = smooth_noise(2, 64, 96)
    assert image.shape == (2, 3, 64, 96)
    assert np.array_equal(image, smooth_noise(2, 64, 96))
    assert image.min() < 30 < 225 < image.max()
    steps = np.abs(np.diff(image.astype(int)))
    assert steps.max() <= 255 / 16 + 1
    assert smooth_noise(1, 1, 1).shape == (1, 3, 1, 1)


@pytest.mark.parametrize('to', SUFFIXES)
def test_labels_of_images_as_they_are_read(cfg, model, repo, tmp_path, to):
    path = tmp_path / f'small{SUFFIXES[to]}'
    done = export(cfg, model, path, to, size=(67, 45), normalize=True)
    assert done.logits.logit_error < 1e-5
    names = {path.name, 'small.bin'} if to == 'openvino' else {path.name}
    assert {file.name for file in tmp_path.glob('small*')} == names
    assert not list(tmp_path.glob('.*'))
    assert done.megabytes == pytest.approx(
        sum((tmp_path / name).stat().st_size for name in names) / 1e6
    )

    # Nothing of where it was made.
    assert not any(str(repo).encode() in (tmp_path / name).read_bytes() for name in names)

    backend = open_backend(path)
    assert backend.metadata == done.metadata
    images = smooth_noise(1, 67, 45)
    labels = backend(images)
    assert labels.dtype == np.uint8
    fused = deploy(model)
    _, logits = reference(fused, images)
    assert len(logits.argmax(1).unique()) > 3
    np.testing.assert_array_equal(labels, logits.argmax(1).numpy())

    with pytest.raises(ConfigError, match='1x3x67x45, but got 1x3x45x67'):
        backend(images.transpose(0, 1, 3, 2))
    with pytest.raises(ConfigError, match='takes uint8, but got float32'):
        backend(images.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize('to', SUFFIXES)
def test_batch_and_size_left_open(cfg, model, tmp_path, to):
    path = tmp_path / f'small{SUFFIXES[to]}'
    done = export(cfg, model, path, to, dynamic=True, output='logits', size=(40, 72))
    assert done.labels is None
    assert set(done.shapes) >= {(1, 40, 72), (1, 1, 1)}
    assert len({batch for batch, *_ in done.shapes}) > 2
    backend = open_backend(path)
    assert backend.metadata.shape == (None, 3, None, None)
    # Of sizes that were not among those compared on the way.
    shapes = [(4, 33, 50), (1, 1, 17), (2, 8, 9)]
    agreement = verify(backend, deploy(model), noises(shapes))
    assert agreement.logit_error < 1e-5


def test_a_file_says_what_it_is(cfg, model, tmp_path):
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
    # The fused model: a conv a layer, and no branch.
    assert sum(node.op_type == 'Add' for node in written.graph.node) == 0


def test_openvino_keeps_its_weights_whole(cfg, model, tmp_path):
    export(cfg, model, tmp_path / 'x.xml', 'openvino', size=(32, 40), output='logits')
    written = openvino.Core().read_model(tmp_path / 'x.xml')
    types = {
        op.get_element_type().get_type_name()
        for op in written.get_ops()
        if op.get_type_name() == 'Constant' and np.prod(op.shape) > 1000
    }
    assert types == {'f32'}


def test_preprocessing_in_the_graph_is_the_models_own(cfg, model):
    from mmseg_repvgg.export.metadata import describe

    for flip in ('bgr_to_rgb', 'rgb_to_bgr', None):
        preprocessor = cfg.model.data_preprocessor
        preprocessor.update(bgr_to_rgb=False, rgb_to_bgr=False)
        if flip:
            preprocessor[flip] = True
        facts = describe(cfg, model, output='logits', shape=(1, 3, 8, 8), normalize=True)
        model.data_preprocessor = MODELS.build(preprocessor)
        images = smooth_noise(2, 16, 24)
        expected, _ = reference(model, images)
        assert torch.equal(graph.Normalize(facts)(torch.from_numpy(images)), expected)
        assert facts.channels == ('RGB' if flip == 'rgb_to_bgr' else 'BGR')


# A file that computes something else is not kept --------------------------------------


def shifted(length, bins, like):
    weight = torch.ones(bins, length, device=like.device, dtype=like.dtype)
    return weight / length


@pytest.mark.parametrize('to', SUFFIXES)
def test_wrong_pooling_is_found(cfg, model, tmp_path, monkeypatch, to):
    path = tmp_path / f'small{SUFFIXES[to]}'
    path.write_text('of before')
    monkeypatch.setattr(pooling, 'bin_matrix', shifted)
    with pytest.raises(ExportError, match='does not compute what the fused model does'):
        export(cfg, model, path, to, size=(61, 45))
    assert path.read_text() == 'of before'
    assert [file.name for file in tmp_path.glob('*small*')] == [path.name]


@pytest.mark.parametrize('dynamic', [False, True])
def test_wrong_normalization_is_found(cfg, model, tmp_path, monkeypatch, dynamic):
    monkeypatch.setattr(graph.Normalize, 'forward', lambda self, image: image.float())
    with pytest.raises(ExportError, match='of their scale'):
        export(
            cfg,
            model,
            tmp_path / 'x.pt',
            'torchscript',
            size=(61, 45),
            dynamic=dynamic,
            normalize=True,
        )
    assert not list(tmp_path.glob('*x*'))


def test_a_file_that_does_not_run_is_not_kept(cfg, model, tmp_path, monkeypatch):
    def forward(self, image):
        return self.network.decode_head(self.network.extract_feat(image))[:, :, 4:, 4:]

    monkeypatch.setattr(graph.SegmentorGraph, 'forward', forward)
    path = tmp_path / 'x.pt'
    with pytest.raises(ExportError, match='of shape .1, 19, 2, 4., where the model'):
        export(cfg, model, path, 'torchscript', size=(48, 64), output='logits')
    monkeypatch.setattr(
        'mmseg_repvgg.export.backends.TorchScriptBackend._run', lambda *_: 1 / 0
    )
    with pytest.raises(ExportError, match='cannot be run on .* division by zero'):
        export(cfg, model, path, 'torchscript', size=(48, 64), output='logits')
    assert not list(tmp_path.glob('*x*'))


def test_nan_is_found(cfg, model, tmp_path):
    with torch.no_grad():
        model.decode_head.conv_seg.bias[0] = torch.nan
    with pytest.raises(ExportError, match='differ by nan'):
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
        ('x.onnx', 'onnx', dict(size=(8, 8), opset=99), 'opset 99'),
        ('x.xml', 'onnx', dict(dynamic=True), r'named \*.onnx, but --out is'),
        ('x.pt', 'tflite', dict(dynamic=True), "onnx, openvino, torchscript.*'tflite'"),
        ('x.pt', 'torchscript', dict(dynamic=True, output='softmax'), "'softmax'"),
    ],
)
def test_bad_arguments(cfg, model, tmp_path, name, to, options, says):
    with pytest.raises(ConfigError, match=says):
        export(cfg, model, tmp_path / name, to, **options)
    assert not list(tmp_path.glob('*x*'))


def test_a_head_whose_size_cannot_be_left_open(cfg, model, tmp_path, monkeypatch):
    def fixed(x, like, align_corners):
        height, width = map(int, like.shape[2:])
        return torch.nn.functional.interpolate(x, (height, width), mode='bilinear')

    monkeypatch.setattr(graph, 'upsample', fixed)
    error, says = ConfigError, 'cannot leave the .*width of this model open'
    if digit_version(torch.__version__) < digit_version('2.6'):
        # Its exporter takes the size for a constant, which the comparison finds.
        error, says = ExportError, 'of shape .1, 19, 97, 65., where the model gives'
    with pytest.raises(error, match=says):
        export(cfg, model, tmp_path / 'x.onnx', 'onnx', dynamic=True)
    assert not list(tmp_path.glob('*x*'))


def test_models_that_are_not_exported(cfg, model, tmp_path):
    path = tmp_path / 'x.pt'
    model.out_channels = 1
    with pytest.raises(ConfigError, match='threshold'):
        export(cfg, model, path, 'torchscript', size=(8, 8))
    cfg.model.backbone.in_channels = 4
    with pytest.raises(ConfigError, match='3 channels'):
        export(cfg, model, path, 'torchscript', size=(8, 8))
    cfg.model.backbone.in_channels = 3
    cfg.model.data_preprocessor = None
    with pytest.raises(ConfigError, match='does not normalise'):
        export(cfg, model, path, 'torchscript', size=(8, 8), normalize=True)


def test_heads_one_after_the_other_are_refused_by_name(cfg, tmp_path):
    head = cfg.model.decode_head
    second = dict(head, type='OCRHead', ocr_channels=8)
    del second['pool_scales']
    cfg.model.update(type='CascadeEncoderDecoder', num_stages=2)
    cfg.model.decode_head = [head, second]
    model = MODELS.build(cfg.model).eval()
    model.dataset_meta = {}
    with pytest.raises(ConfigError, match='one decode head .*CascadeEncoderDecoder'):
        export(cfg, model, tmp_path / 'x.pt', 'torchscript', size=(8, 8))


def test_a_head_that_gives_a_tuple(cfg, tmp_path, randomize_norms):
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
    # Exporting compares the file with the model.
    export(cfg, model, tmp_path / 'x.pt', 'torchscript', size=(33, 65))


def test_a_checkpoint_of_another_arch(cfg, checkpoint):
    cfg.model.backbone.arch = 'A0'
    with pytest.raises(CheckpointError, match=r'small.pth: .*of another arch'):
        load_model(cfg, checkpoint)


def test_a_fused_checkpoint(cfg, model, tmp_path):
    torch.save(deploy(model).state_dict(), tmp_path / 'fused.pth')
    fused = load_model(cfg, str(tmp_path / 'fused.pth'))
    done = export(cfg, fused, tmp_path / 'x.pt', 'torchscript', size=(33, 17))
    agreement = verify(open_backend(done.path), deploy(model), noises([(1, 33, 17)]))
    assert agreement.label_error == 0


@pytest.mark.parametrize(
    ('package', 'to'),
    [('onnx', 'onnx'), ('onnxruntime', 'onnx'), ('openvino', 'openvino')],
)
def test_a_package_that_is_not_installed(cfg, model, tmp_path, monkeypatch, package, to):
    monkeypatch.setitem(sys.modules, package, None)
    if package == 'onnxruntime':
        monkeypatch.setattr(
            'mmseg_repvgg.export.exporting.SegmentorGraph.forward',
            lambda self, image: image.mean(1),
        )
    with pytest.raises(ExtraError, match=rf"{package} .*'mmseg_repvgg\[export\]'"):
        export(cfg, model, tmp_path / f'x{SUFFIXES[to]}', to, size=(8, 8))
    assert not list(tmp_path.glob('*x*'))


@pytest.mark.parametrize('to', SUFFIXES)
def test_a_full_disk(cfg, model, tmp_path, to):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for a graph, none for weights.
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(WriteError, match='cannot be written'):
            export(cfg, model, tmp_path / f'x{SUFFIXES[to]}', to, size=(16, 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob('*x*'))


def test_a_folder_that_cannot_be_written(cfg, model, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(WriteError, match='cannot be written'):
        export(cfg, model, tmp_path / 'file' / 'x.pt', 'torchscript', size=(16, 16))


# Sizes in earnest ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('to', ['onnx', 'openvino'])
def test_fixed_sizes(cfg, model, tmp_path, to, size):
    path = tmp_path / f'x{SUFFIXES[to]}'
    done = export(cfg, model, path, to, size=size, output='logits')
    assert done.logits.logit_error < 1e-5
    assert done.logits.label_error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('to', SUFFIXES)
def test_all_sizes_by_one_file(cfg, model, tmp_path, to):
    path = tmp_path / f'small{SUFFIXES[to]}'
    export(cfg, model, path, to, dynamic=True, output='logits')
    images = noises((1, *size) for size in SIZES)
    agreement = verify(open_backend(path), deploy(model), images)
    assert agreement.logit_error < 1e-5
    assert agreement.label_error < 1e-4
