"""The backbone with other heads than PSPNet's: trained, fused and exported."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_repvgg import DeployHook, deploy
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.export.exported import export
from mmseg_repvgg.export.verify import reference, smooth_noise
from mmseg_repvgg.models.comparison import relative_difference
from mmseg_repvgg.reparam import RepConv
from mmseg_repvgg.winograd import WinogradConv2d
from repvgg_runtime.backends import open_backend

CONFIGS = Path(__file__).parents[1] / 'configs'
LEAVES = sorted(CONFIGS.glob('other_heads/*.py'))
NAMES = [leaf.stem.removesuffix('_repvgg_a0_cityscapes') for leaf in LEAVES]
HEADS = dict(
    deeplabv3plus='DepthwiseSeparableASPPHead',
    fastfcn='PSPHead',
    fcn='FCNHead',
    segformer='SegformerHead',
    upernet='UPerHead',
)


@pytest.fixture(scope='module', params=LEAVES, ids=NAMES)
def trained(request, street_root, small_street_config, tmp_path_factory, randomize_norms):
    """Train a config for two steps and validate it; return config, runner and model.

    The model has norms as after a long training.
    """
    cfg = small_street_config(street_root, tmp_path_factory.mktemp('heads'))
    cfg.model = Config.fromfile(request.param).model
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    runner = build_runner(cfg)
    runner.train()
    model = load_model(cfg, f'{cfg.work_dir}/iter_2.pth')
    return cfg, runner, randomize_norms(model)


def test_every_head_has_a_config():
    assert {
        name: Config.fromfile(leaf).model.decode_head.type
        for name, leaf in zip(NAMES, LEAVES)
    } == HEADS
    assert Config.fromfile(LEAVES[NAMES.index('fastfcn')]).model.neck.type == 'JPU'


@pytest.mark.parametrize('leaf', LEAVES, ids=NAMES)
def test_recipe_is_that_of_pspnet(leaf):
    """Only the model may differ."""
    assert len(leaf.read_text().splitlines()) <= 20
    cfg = Config.fromfile(leaf)
    pspnet = Config.fromfile(CONFIGS / 'pspnet_repvgg_a0_cityscapes.py')
    for name in ('data_preprocessor', 'test_cfg', 'train_cfg'):
        assert cfg.model[name] == pspnet.model[name]
    for each in (cfg, pspnet):
        each.pop('model')
    assert cfg.to_dict() == pspnet.to_dict()


@pytest.mark.slow
def test_two_steps_train_every_parameter_and_validate(trained):
    _, runner, _ = trained
    parameters = list(runner.model.parameters())
    assert runner.iter == 2
    assert len(runner.optim_wrapper.optimizer.state) == len(parameters)
    assert runner.message_hub.get_scalar('val/mIoU').current() >= 0
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, DeployHook))
    assert hook.verify


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['torch', 'winograd'])
def test_fused_model_gives_the_same_logits(trained, engine):
    _, _, model = trained
    _, expected = reference(model, smooth_noise(2, 67, 97))
    fast = deploy(model, engine)
    _, logits = reference(fast, smooth_noise(2, 67, 97))
    assert relative_difference(logits, expected) < 1e-5
    assert not any(isinstance(module, RepConv) for module in fast.modules())
    if engine == 'winograd':
        replaced = [n for n, m in fast.named_modules() if isinstance(m, WinogradConv2d)]
        assert any(name.startswith('backbone.') for name in replaced)
        # SegFormer's head has convs of 1x1 only.
        in_head = any(name.startswith('decode_head.') for name in replaced)
        assert in_head == (type(fast.decode_head).__name__ != 'SegformerHead')


@pytest.mark.slow
def test_onnx_file_gives_the_labels_of_the_fused_model(
    trained, tmp_path, assert_best_labels
):
    pytest.importorskip('onnxscript', reason="needs pip install -e '.[export]'")
    cfg, _, model = trained
    done = export(cfg, model, tmp_path / 'head.onnx', 'onnx', dynamic=True)
    assert done.agreement.logit_error < 1e-5
    # Other images than those that the export compares.
    images = smooth_noise(1, 67, 97)[:, :, ::-1, ::-1].copy()
    inputs, logits = reference(deploy(model), images)
    labels = open_backend(done.path)(inputs.numpy())
    assert_best_labels(labels[0], logits[0].numpy(), 1e-4)
