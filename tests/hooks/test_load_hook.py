"""A checkpoint fills the whole model or is refused."""

import copy

import pytest
import torch
from mmengine.runner import Runner
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS

from mmseg_repvgg import RepVGG
from mmseg_repvgg.checkpoints.key_names import from_native
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.errors import CheckpointError


def saved(cfg, change, meta=None):
    runner = Runner.from_cfg(cfg)
    state = runner.model.state_dict()
    change(state)
    path = f'{cfg.work_dir}/changed.pth'
    torch.save({'state_dict': state, 'meta': meta or {}}, path)
    return path


def run_test(cfg, path, **changes):
    cfg.custom_hooks = [dict(type='LoadHook'), dict(type='DeployHook')]
    cfg.load_from = path
    cfg.merge_from_dict(changes)
    runner = Runner.from_cfg(cfg)
    runner.test()
    return runner


def start_training(cfg):
    """Load as ``Runner.train`` does, which builds its loop first."""
    runner = Runner.from_cfg(cfg)
    assert runner.train_loop is not None
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner


def test_what_fits_is_loaded(street_config):
    path = saved(street_config, lambda state: None)
    runner = run_test(street_config, path)
    state = torch.load(path)['state_dict']
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (
            lambda s: s.pop('decode_head.conv_seg.bias'),
            'missing: decode_head.conv_seg.bias',
        ),
        (lambda s: s.update(extra=torch.ones(1)), 'not in the model: extra'),
        (
            lambda s: s.update({'decode_head.conv_seg.bias': torch.ones(11)}),
            r'conv_seg.bias \(11,\) where the model has \(19,\)',
        ),
        (lambda s: s.pop('backbone.stem.conv.branch_1x1.conv.weight'), 'does not fit'),
        (
            lambda s: s['decode_head.conv_seg.bias'].fill_(float('nan')),
            'conv_seg.bias holds NaN',
        ),
        (
            lambda s: s.update({'decode_head.conv_seg.bias': torch.ones(19).int()}),
            r'conv_seg.bias \(torch.int32\) where the model has torch.float32',
        ),
    ],
)
def test_what_does_not_fit_is_an_error(street_config, change, says):
    path = saved(street_config, change)
    with pytest.raises(CheckpointError, match=says):
        run_test(street_config, path)


def test_trusted_head_that_cannot_be_copied_is_an_error(street_config, monkeypatch):
    """mmengine would only log it and evaluate the head's random weights."""
    key = 'decode_head.conv_seg.weight'
    path = saved(street_config, lambda s: s.update({key: s[key].to_sparse()}))
    with pytest.raises(CheckpointError, match='_rebuild_sparse_tensor'):
        load_model(street_config, path)
    monkeypatch.setenv('MMSEG_REPVGG_TRUST_CHECKPOINT', '1')
    with pytest.raises(CheckpointError, match=f'{key} is not a dense tensor'):
        load_model(street_config, path)
    with pytest.raises(CheckpointError, match=f'{key} is not a dense tensor'):
        run_test(street_config, path)


def test_a_backbone_alone_is_an_error(street_config):
    path = f'{street_config.work_dir}.pth'
    backbone = RepVGG(street_config.model.backbone.arch)
    torch.save(from_native(backbone.state_dict(), 'official'), path)
    with pytest.raises(CheckpointError, match='a backbone alone: auxiliary_head and dec'):
        run_test(street_config, path)


def test_another_dilation_is_an_error(street_config):
    """Its weights fit, but the mIoU would be a little lower."""
    path = saved(
        street_config, lambda state: None, meta={'cfg': street_config.pretty_text}
    )
    run_test(street_config, path)
    with pytest.raises(CheckpointError) as caught:
        run_test(street_config, path, **{'model.backbone.dilation': 'fast'})
    assert (
        "was trained with dilation='full', but the config builds dilation='fast'"
        in str(caught.value)
    )
    assert '--cfg-options model.backbone.dilation=full' in str(caught.value)


def test_a_dilation_that_is_left_out_is_the_default(street_config):
    street_config.model.backbone.pop('dilation', None)
    path = saved(
        street_config, lambda state: None, meta={'cfg': street_config.pretty_text}
    )
    run_test(street_config, path, **{'model.backbone.dilation': 'full'})
    with pytest.raises(CheckpointError, match="trained with dilation='full'"):
        run_test(street_config, path, **{'model.backbone.dilation': 'fast'})


def meta_of_backbone(cfg, **fields):
    """Return the metadata of a training whose backbone has other fields."""
    trained = copy.deepcopy(cfg)
    trained.model.backbone = fields
    return {'cfg': trained.pretty_text}


@pytest.mark.parametrize('name', ['mmpretrain.RepVGG', 'ResNet'])
def test_the_dilation_of_another_class_is_ignored(street_config, name):
    """mmpretrain's RepVGG has no such argument."""
    meta = meta_of_backbone(street_config, type=name, dilation='fast')
    run_test(street_config, saved(street_config, lambda state: None, meta))


def test_dilation_is_ignored_if_no_built_layer_has_any(street_config):
    """The last two stages are not built."""
    cfg = street_config
    cfg.model.backbone.out_indices = (0, 1)
    cfg.model.decode_head.update(in_channels=32, in_index=1)
    cfg.model.auxiliary_head.update(in_channels=16, in_index=0)
    meta = meta_of_backbone(cfg, **{**cfg.model.backbone, 'dilation': 'fast'})
    run_test(cfg, saved(cfg, lambda state: None, meta))


class Child(RepVGG):
    pass


@pytest.mark.parametrize('kind', ['Child', 'own.networks.Child'])
def test_the_dilation_of_a_subclass_is_checked(street_config, monkeypatch, kind):
    """A config with Python imports names the module as well."""
    monkeypatch.setitem(MODELS.module_dict, 'Child', Child)
    street_config.model.backbone.type = 'Child'
    fields = {**street_config.model.backbone, 'type': kind}
    meta = meta_of_backbone(street_config, **fields)
    path = saved(street_config, lambda state: None, meta)
    with pytest.raises(CheckpointError, match="trained with dilation='full'"):
        run_test(street_config, path, **{'model.backbone.dilation': 'fast'})


def test_another_block_with_the_same_keys_is_refused(street_config):
    """Its branches would compute something else."""
    meta = meta_of_backbone(street_config, **street_config.model.backbone)
    path = saved(street_config, lambda state: None, meta)
    relu = {'model.backbone.block': 'relu_in_branches'}
    with pytest.raises(CheckpointError, match="trained with block='repvgg', but"):
        run_test(street_config, path, **relu)


def test_a_block_may_be_written_in_any_way(street_config):
    """The command line drops blanks."""
    meta = meta_of_backbone(
        street_config,
        **{**street_config.model.backbone, 'block': '3x3-bn+1x1-bn+identity-bn'},
    )
    run_test(street_config, saved(street_config, lambda state: None, meta))


class WithTeacher(EncoderDecoder):
    def __init__(self, teacher, **arguments):
        super().__init__(**arguments)
        self.teacher = MODELS.build(teacher)


def test_a_second_backbone_may_have_another_dilation(street_config, monkeypatch):
    # By name: upstream's mmengine cannot print a config with a class in it.
    monkeypatch.setitem(MODELS.module_dict, 'WithTeacher', WithTeacher)
    teacher = dict(type='RepVGG', arch='A0', dilation=None, out_indices=(3,))
    street_config.model.update(type='WithTeacher', teacher=teacher)
    meta = {'cfg': meta_of_backbone(street_config, **street_config.model.backbone)['cfg']}
    run_test(street_config, saved(street_config, lambda state: None, meta))


def test_training_from_another_dilation_is_a_warning(street_config, capsys):
    path = saved(
        street_config, lambda state: None, meta={'cfg': street_config.pretty_text}
    )
    street_config.load_from = path
    street_config.custom_hooks = [dict(type='LoadHook', strict=False)]
    street_config.model.backbone.dilation = 'fast'
    capsys.readouterr()
    start_training(street_config)
    assert "was trained with dilation='full'" in capsys.readouterr().out


def test_a_model_wrapped_for_augmentation_is_loaded(street_config):
    path = saved(street_config, lambda state: None)
    street_config.test_dataloader.dataset.pipeline = street_config.tta_pipeline
    street_config.model = dict(type='SegTTAModel', module=street_config.model)
    run_test(street_config, path)


@pytest.mark.parametrize('layout', ['official', 'timm', 'mmpretrain'])
@pytest.mark.parametrize('ema', [False, True])
def test_load_from_takes_another_projects_backbone(
    street_config, randomize_norms, layout, ema, capsys
):
    source = randomize_norms(RepVGG(street_config.model.backbone.arch))
    classifier = {'weight': torch.ones(10, 128), 'bias': torch.ones(10)}
    path = f'{street_config.work_dir}.pth'
    state = from_native(source.state_dict(), layout, classifier)
    # The config of mmpretrain's own RepVGG has no dilation.
    meta = meta_of_backbone(street_config, type='RepVGG', arch='A0')
    torch.save({'model': state, 'meta': meta}, path)
    street_config.load_from = path
    street_config.model.backbone.dilation = 'fast'
    hooks = [dict(type='LoadHook', strict=False)]
    street_config.custom_hooks = hooks + [dict(type='EMAHook')] * ema
    runner = start_training(street_config)
    models = [runner.model]
    models += [h.ema_model.module for h in runner.hooks if type(h).__name__ == 'EMAHook']
    assert len(models) == 1 + ema
    for model in models:
        for key, value in source.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[key], value), key
    assert 'was trained with' not in capsys.readouterr().out


def test_load_from_another_projects_other_arch_is_an_error(street_config):
    path = f'{street_config.work_dir}.pth'
    torch.save(from_native(RepVGG('A1').state_dict(), 'official'), path)
    street_config.load_from = path
    street_config.custom_hooks = [dict(type='LoadHook', strict=False)]
    with pytest.raises(CheckpointError, match='another arch'):
        start_training(street_config)
