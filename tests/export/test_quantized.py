import copy
import sys

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from PIL import Image
from torch import nn

from demo.street import write_street_scenes
from mmseg_repvgg import deploy
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.errors import (
    ConfigError,
    DataError,
    ExportError,
    ExtraError,
    WriteError,
)
from mmseg_repvgg.export import quantized
from mmseg_repvgg.export.backend_segmentor import use_exported_file
from mmseg_repvgg.export.exported import export
from mmseg_repvgg.export.openvino_graph import convolutions as graph_convolutions
from mmseg_repvgg.export.openvino_graph import name_and_fold
from mmseg_repvgg.export.quantized import quantize
from mmseg_repvgg.export.real_images import Validation
from mmseg_repvgg.export.verify import smooth_noise
from repvgg_runtime.backends import OpenVINOBackend, open_backend

*_, openvino, nncf = (
    pytest.importorskip(package, reason="needs pip install -e '.[export,quantize]'")
    for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'nncf')
)

SIZE = (64, 128)


def convolutions(model):
    """Return the names of the layers that a deployed segmentor runs."""
    return [
        name
        for name, module in deploy(model).named_modules()
        if isinstance(module, nn.Conv2d) and not name.startswith('auxiliary_head')
    ]


def test_file_stores_its_layers(int8):
    _, model, done = int8
    assert {file.name for file in done.path.parent.glob('*x*')} == {'x.xml', 'x.bin'}
    assert not list(done.path.parent.glob('.*'))
    backend = open_backend(done.path)
    assert backend.metadata == done.metadata
    facts = backend.metadata.quantized
    assert sorted(facts['layers']) == sorted(convolutions(model))
    assert 'backbone.stage_3.1.conv' in facts['layers']
    assert 'decode_head.psp_modules.0.1.conv' in facts['layers']
    assert (facts['kept'], facts['images'], facts['seed']) == ([], 4, 0)
    assert facts['by'] == f'NNCF {nncf.__version__}'
    assert backend.metadata.classes[0] == 'road'
    assert (done.path.with_suffix('.bin')).stat().st_size < 0.3 * 4 * sum(
        p.numel() for n, p in deploy(model).named_parameters() if 'auxiliary' not in n
    )


def int8_weights(file):
    """Return the weights in int8 by the name of their operation."""
    graph = openvino.Core().read_model(file)
    return {name: weight.data for name, _, weight in graph_convolutions(graph)}


def test_first_weights_have_seven_bits_and_the_others_eight(int8):
    _, model, done = int8
    first, *others = int8_weights(done.path).values()
    assert np.abs(first).max() == 63
    assert {np.abs(each).max() for each in others} == {127}
    assert done.metadata.quantized['method'] == 'gptq'
    # The scales fit the levels.
    stem = deploy(model).backbone.stem.conv.weight
    largest = stem.abs().amax((1, 2, 3)).numpy()
    np.testing.assert_allclose(done.ranges[0].channels, largest, rtol=1e-5)


def test_biases_stay_as_they_are(int8):
    """NNCF's correction of biases would lose more than the rounding by GPTQ."""
    _, model, done = int8
    graph = openvino.Core().read_model(done.path)
    convs = [m for m in deploy(model).backbone.modules() if isinstance(m, nn.Conv2d)]
    for conv, (_, operation, _) in zip(convs, graph_convolutions(graph)):
        (add,) = (i.get_node() for i in operation.output(0).get_target_inputs())
        bias = add.input_value(1).get_node().data
        np.testing.assert_allclose(bias.flatten(), conv.bias.numpy(), rtol=1e-5)


def test_method_nncf_rounds_to_the_nearest(int8, tmp_path):
    cfg, model, done = int8
    path = tmp_path / 'x.xml'
    found = quantize(cfg, model, path, size=SIZE, images=1, method='nncf')
    assert found.metadata.quantized['method'] == 'nncf'
    first, second, *_ = int8_weights(path).values()
    assert np.abs(first).max() in (63, 64)
    weight = deploy(model).backbone.stage_1[0].conv.weight.numpy().reshape(second.shape)
    steps = np.abs(weight).max((-3, -2, -1), keepdims=True) / 127
    assert np.abs(second - weight / steps).max() < 0.51
    # GPTQ rounds some to the other side.
    _, other, *_ = int8_weights(done.path).values()
    assert np.abs(other - weight / steps).max() > 0.6


def test_depthwise_convolutions_have_a_range_too(cfg, randomize_norms, tmp_path):
    """NNCF gives the input of such a convolution a range for each channel."""
    head = cfg.model.decode_head
    head.pop('pool_scales')
    head.update(type='DepthwiseSeparableASPPHead', dilations=(1, 2))
    head.update(c1_in_channels=16, c1_channels=8)
    model = randomize_norms(MODELS.build(cfg.model)).eval()
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'small.pth')
    model = load_model(cfg, str(tmp_path / 'small.pth'))
    done = quantize(cfg, model, tmp_path / 'x.xml', size=SIZE, images=1, method='nncf')
    assert len(done.ranges) == len(convolutions(model))
    assert all(low < high for low, high in (layer.inputs for layer in done.ranges))


@pytest.mark.slow
def test_normalizing_file_is_rounded_by_normalized_images(int8, tmp_path):
    cfg, model, plain = int8
    path = tmp_path / 'x.xml'
    quantize(cfg, model, path, size=SIZE, images=4, normalize=True)
    pairs = zip(int8_weights(plain.path).values(), int8_weights(path).values())
    for one, other in pairs:
        assert np.mean(one == other) > 0.95


@pytest.mark.isa
def test_layers_run_in_int8_beside_the_hint_of_float32(int8):
    _, _, done = int8
    layers = len(done.metadata.quantized['layers'])
    assert done.running == layers > 8
    backend = open_backend(done.path)
    hint = backend._model.get_property('INFERENCE_PRECISION_HINT')
    assert hint.get_type_name() == 'f32'
    types = list(backend.precisions().values())
    assert sum(name in ('i8', 'u8') for name in types) >= layers
    plain = done.contenders['OpenVINO float32'].precisions()
    assert not {'i8', 'u8', 'bf16'} & set(plain.values())


@pytest.mark.isa
def test_int8_output_is_close_to_float32(int8):
    _, _, done = int8
    float32, plain, quantized = (run(done.sample) for run in done.contenders.values())
    scale = np.abs(float32).max()
    assert np.abs(plain - float32).max() < 1e-4 * scale
    assert 1e-4 * scale < np.abs(quantized - float32).max() < 0.2 * scale


def test_scores_match_a_test_of_the_file(int8):
    cfg, _, done = int8
    cfg = copy.deepcopy(cfg)
    cfg.launcher = 'none'
    cfg.test_dataloader = cfg.val_dataloader
    use_exported_file(cfg, str(done.path))
    tested = build_runner(cfg).test()['mIoU']
    assert done.miou == pytest.approx(tested, abs=0.01)
    assert done.miou == done.whole_miou
    assert done.scored == 3
    # Rounded mIoU of random weights may agree, logits do not.
    outputs = [
        done.contenders[f'OpenVINO {form}'](done.sample) for form in ('float32', 'int8')
    ]
    assert not np.array_equal(*outputs)


@pytest.mark.slow
def test_dynamic_file_is_quantized(cfg, model, tmp_path):
    path = tmp_path / 'x.xml'
    done = quantize(cfg, model, path, dynamic=True, normalize=True, images=2)
    assert done.running == len(convolutions(model))
    assert done.sample.dtype == np.uint8
    assert open_backend(path)(smooth_noise(2, 50, 70)).shape == (2, 19, 50, 70)


@pytest.mark.slow
def test_int8_without_dilated_convolutions(int8, tmp_path):
    cfg, model, dilated = int8
    done = quantize(cfg, model, tmp_path / 'x.xml', size=SIZE, images=4, engine='phases')
    assert open_backend(done.path).metadata.engine == 'phases'
    assert sorted(done.metadata.quantized['layers']) == sorted(convolutions(model))
    assert done.running == len(convolutions(model))
    for path, expected in ((dilated.path, 4), (done.path, 1)):
        found = [
            max(operation.get_attributes()['dilations'])
            for operation in openvino.Core().read_model(path).get_ops()
            if 'Convolution' in operation.get_type_name()
        ]
        assert max(found) == expected
    # Rounding adds up in another order.
    logits, others = (
        each.contenders['OpenVINO int8'](done.sample) for each in (done, dilated)
    )
    assert np.abs(logits - others).max() < 0.2 * np.abs(others).max()


# --max-drop ----------------------------------------------------------------------------


@pytest.fixture
def own_labels(int8, read_image, tmp_path):
    """Config validated on label maps that the model in float32 predicts.

    It is calibrated on the same images, so that all layers in int8 lose the same.
    """
    cfg, _, done = int8
    cfg, root = copy.deepcopy(cfg), tmp_path / 'own'
    write_street_scenes(root, counts={'val': 2}, size=SIZE, seed=1)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(root)
    for file in root.glob('leftImg8bit/val/*/*.png'):
        (logits,) = done.contenders['OpenVINO float32'](read_image(cfg, file))
        label = str(file).replace('leftImg8bit', 'gtFine', 1)
        label = label.replace('leftImg8bit.png', 'gtFine_labelTrainIds.png')
        Image.fromarray(logits.argmax(0).astype(np.uint8)).save(label)
    return cfg


@pytest.mark.slow
def test_layers_are_kept_until_the_drop_is_met(int8, own_labels, tmp_path):
    _, model, done = int8
    miou, each = Validation(own_labels, str(done.path)).score(
        done.contenders['OpenVINO int8']
    )
    assert len(each) == 2
    allowed = (100 - miou) * 0.7
    assert allowed > 0.1
    path = tmp_path / 'x.xml'
    found = quantize(own_labels, model, path, size=SIZE, images=4, max_drop=allowed)
    facts = found.metadata.quantized
    assert found.float_miou == 100
    assert 100 - found.miou <= allowed < 100 - found.whole_miou
    assert facts['kept']
    assert facts['layers']
    assert sorted(facts['kept'] + facts['layers']) == sorted(convolutions(model))
    assert found.running == len(facts['layers'])
    types = open_backend(path).precisions()
    assert sum(name in ('i8', 'u8') for name in types.values()) < len(types)
    # Layers in float32 have the weights of the model, not rounded ones.
    export(own_labels, model, tmp_path / 'float.xml', 'openvino', size=SIZE)
    core = openvino.Core()
    plain = core.read_model(tmp_path / 'float.xml')
    name_and_fold(plain)
    own = {name: weight.data for name, _, weight in graph_convolutions(plain)}
    in_float = {
        name: weight.data
        for name, _, weight in graph_convolutions(core.read_model(path))
        if weight.data.dtype == np.float32
    }
    assert len(in_float) == len(facts['kept'])
    for name, weight in in_float.items():
        assert np.array_equal(weight, own[name]), name


def test_unmet_drop_saves_no_file(int8, tmp_path, monkeypatch):
    cfg, model, _ = int8
    path = tmp_path / 'x.xml'
    path.write_text('old')

    def score(self, run, indices=None):
        """Score as if any rounding cost 80 points."""
        plain = isinstance(run, OpenVINOBackend) and not run.metadata.quantized
        return (90.0 if plain else 10.0), [1.0]

    monkeypatch.setattr(Validation, 'score', score)
    with pytest.raises(ExportError, match=r'1.5 cannot .*lose 80.00 of 90.00 mIoU'):
        quantize(cfg, model, path, size=SIZE, images=2, max_drop=1.5)
    assert [file.name for file in tmp_path.iterdir()] == ['x.xml']
    assert path.read_text() == 'old'


# Bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (dict(engine='winograd'), "one of .'torch', 'phases'., but got 'winograd'"),
        (dict(method='x'), "--method must be one of .'gptq', 'nncf'., but got 'x'"),
        (dict(images=0), '--images must be at least 1, but got 0'),
        (dict(max_drop=-1.0), '--max-drop must be at least 0 .*-1'),
        (dict(max_drop=float('nan')), '--max-drop must be at least 0 .*nan'),
        (dict(size=None), 'give --size H W, or --dynamic'),
        (dict(path='x.onnx'), r'--out must end in \.xml'),
    ],
)
def test_bad_arguments_are_refused(cfg, model, tmp_path, options, says):
    options = {'size': SIZE, 'path': 'x.xml', **options}
    with pytest.raises(ConfigError, match=says):
        quantize(cfg, model, tmp_path / options.pop('path'), **options)
    assert not list(tmp_path.glob('*x*'))


@pytest.mark.parametrize('part', ['train_dataloader', 'val_dataloader', 'val_evaluator'])
def test_config_without_a_needed_part_is_refused(cfg, model, tmp_path, part):
    cfg[part] = None
    with pytest.raises(ConfigError, match=f'no {part}'):
        quantize(cfg, model, tmp_path / 'x.xml', size=SIZE)


def test_empty_training_set_is_refused(cfg, model, tmp_path):
    (tmp_path / 'empty').mkdir()
    cfg.train_dataloader.dataset.update(
        data_root=str(tmp_path / 'empty'),
        data_prefix=dict(img_path='.', seg_map_path='.'),
    )
    with pytest.raises(DataError, match='empty.* has no image'):
        quantize(cfg, model, tmp_path / 'x.xml', size=SIZE, images=4)
    assert not list(tmp_path.glob('*x.xml*'))


def test_images_of_another_size_than_asked_for_are_refused(cfg, model, tmp_path):
    with pytest.raises(ConfigError, match=r'^x\.xml takes .*1x3x64x127, but got'):
        quantize(cfg, model, tmp_path / 'x.xml', size=(64, 127))
    assert not list(tmp_path.glob('*x*'))


def test_full_disk_leaves_the_old_file(cfg, model, tmp_path, full_disk):
    (tmp_path / 'x.xml').write_text('old')
    says = rf'^{tmp_path}/.*x.xml .*on a full disk'
    # A graph fits, weights do not.
    with full_disk(300_000), pytest.raises(WriteError, match=says):
        quantize(cfg, model, tmp_path / 'x.xml', size=SIZE)
    assert [file.name for file in tmp_path.glob('*x.xml*')] == ['x.xml']
    assert (tmp_path / 'x.xml').read_text() == 'old'


def test_missing_nncf_is_named(cfg, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nncf', None)
    with pytest.raises(ExtraError, match=r"nncf .*'mmseg_repvgg\[quantize\]'"):
        quantize(cfg, model, tmp_path / 'x.xml', dynamic=True)
    assert not list(tmp_path.glob('*x.xml*'))


@pytest.mark.slow
def test_tool_writes_a_file_and_prints_its_cost(cfg, checkpoint, run_tool, tmp_path):
    config = tmp_path / 'config.py'
    cfg.dump(config)
    options = ('--size', *SIZE, '--images', 4, '--max-drop', 100, '--output', 'labels')
    options += ('--plot', tmp_path / 'ranges.png')
    done = run_tool('quantize.py', config, checkpoint, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    backend = open_backend(tmp_path / 'work' / 'small_int8.xml')
    assert backend.metadata.output == 'labels'
    layers = len(backend.metadata.quantized['layers'])
    assert f'in int8               {layers} of {layers} convolutions' in done.stdout
    assert 'on the 3 images of validation' in done.stdout
    assert 'kept in float32                 none' in done.stdout
    assert (tmp_path / 'ranges.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    ('sets', 'lacking'),
    [
        (['sse2', 'avx2'], 'neither VNNI nor AMX'),
        (['sse2', 'avx2', 'avx_vnni'], None),
        (['sse2', 'avx512_vnni'], None),
        (['asimd'], None),
        ([], None),
    ],
)
def test_missing_int8_instructions_are_named(sets, lacking, monkeypatch):
    monkeypatch.setattr(quantized, 'instruction_sets', lambda: sets)
    found = quantized.missing_for_int8()
    assert lacking in found if lacking else found is None
