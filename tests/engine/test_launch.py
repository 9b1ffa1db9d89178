"""From a config, however it is written, to a Runner."""

import copy
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS, MODELS

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.batches import accumulate
from mmseg_repvgg.engine.launch import (
    build_runner,
    load_config,
    prepare_testing,
    prepare_training,
    recipe_warnings,
)
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.engine.precision import use_amp
from mmseg_repvgg.errors import ConfigError, WriteError
from mmseg_repvgg.export.metadata import describe
from mmseg_repvgg.hooks import CrashSafeCheckpointHook, DeployHook
from mmseg_repvgg.reparam import RepConv, is_deployed

SCOPES = {
    'RepVGG': 'mmseg_repvgg',
    'DeployHook': 'mmseg_repvgg.engine',
    'CityscapesDataset': 'mmseg.datasets',
    'CheckpointHook': 'mmengine.hooks',
    'IterBasedTrainLoop': 'mmengine.runner',
    'OptimWrapper': 'mmengine.optim',
}


@pytest.fixture(params=['scoped', 'class'])
def config(street_config, tmp_path, request):
    """The same config with its types written in one of the other two ways."""
    path = tmp_path / 'config.py'
    street_config.default_hooks.checkpoint.type = 'CheckpointHook'
    text = street_config.pretty_text
    for name, module in SCOPES.items():
        bare = f"type='{name}'"
        assert bare in text, name
        if request.param == 'class':
            # With an import, mmengine takes a config for one of the lazy style.
            text = f'from {module} import {name}\n' + text.replace(bare, f'type={name}')
        else:
            scope = 'mmengine' if 'mmengine' in module else 'mmseg'
            text = text.replace(bare, f"type='{scope}.{name}'")
    if request.param == 'class':
        text = text.replace("default_scope = 'mmseg'", 'default_scope = None')
    path.write_text(text)
    return load(path)


def load(path, **options):
    args = dict(work_dir=None, launcher='none', local_rank=0, cfg_options=options)
    return load_config(Namespace(config=str(path), **args))


class Look(Hook):
    def __init__(self):
        self.tested = []

    def after_test_iter(self, runner, *args, **kwargs):
        self.tested.append(is_deployed(runner.model))


@pytest.fixture
def checkpoint(config, tmp_path):
    path = tmp_path / 'whole.pth'
    torch.save({'state_dict': MODELS.build(config.model).state_dict()}, path)
    return str(path)


def test_types_in_testing(config, checkpoint):
    """With --no-deploy it is not the fused model that is tested."""
    for fused in (False, True):
        cfg = copy.deepcopy(config)
        prepare_testing(cfg, checkpoint, fused=fused, engine='winograd')
        runner = build_runner(cfg)
        hooks = [hook for hook in runner.hooks if isinstance(hook, DeployHook)]
        assert [hook.engine for hook in hooks] == ['winograd'] * fused
        look = Look()
        runner.register_hook(look)
        runner.test()
        assert look.tested == [fused] * 3


def test_types_in_training(config):
    # The recipe of the paper, which starts from ImageNet weights, is the one with SGD.
    config.optim_wrapper.optimizer.type = 'SGD'
    assert 'the backbone starts from random weights' in ' '.join(
        recipe_warnings(config, 1)
    )
    use_amp(config, 'bfloat16')
    accumulate(config, 2)
    prepare_training(config)
    runner = build_runner(config)
    assert sum(isinstance(hook, DeployHook) for hook in runner.hooks) == 1
    assert sum(isinstance(h, CrashSafeCheckpointHook) for h in runner.hooks) == 1


def test_types_in_a_file_of_export(config, checkpoint):
    model = load_model(config, checkpoint)
    shape = (1, 3, 64, 128)
    facts = describe(config, model, output='logits', shape=shape, normalize=False)
    assert (facts.backbone, facts.arch, facts.dilation) == ('RepVGG', 'A0', 'full')
    assert facts.dump()


def test_a_fused_checkpoint_of_each(config, checkpoint, tmp_path):
    fused = deploy(load_model(copy.deepcopy(config), checkpoint))
    torch.save({'state_dict': fused.state_dict()}, tmp_path / 'fused.pth')
    model = load_model(config, str(tmp_path / 'fused.pth'))
    assert not any(isinstance(module, RepConv) for module in model.modules())


# Mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('gone.py', 'gone.py does not exist'),
        ('', 'is a folder'),
        ('iter_2.pth', r'iter_2.pth is no config file.* arguments swapped'),
    ],
)
def test_what_is_no_config(tmp_path, name, says):
    (tmp_path / 'iter_2.pth').touch()
    with pytest.raises(ConfigError, match=says):
        load(tmp_path / name)


def start(path, **options):
    cfg = load(path, **options)
    prepare_training(cfg)
    return build_runner(cfg)


@pytest.mark.parametrize(
    ('option', 'value', 'says'),
    [
        ('custom_hooks.0.engine', 'wino', "engine must be one of .* but got 'wino'"),
        ('custom_hooks.99.engine', 'auto', '--cfg-options does not fit .*Index 99'),
        ('default_hooks.samples.count', -1, 'count must be at least 0, but got -1'),
        ('model.backbone.arch.x', 1, '--cfg-options does not fit .*arch='),
        ('model.backbone.init_cfg.checkpoint', 'F', 'init_cfg has no type, only checkp'),
    ],
)
def test_options_that_do_not_fit(street_config_file, option, value, says):
    with pytest.raises(ConfigError, match=says):
        start(street_config_file, **{option: value})


@pytest.mark.parametrize(
    ('option', 'value', 'says'),
    [
        ('model.backbone.dilaton', 'full', "keyword argument 'dilaton'"),
        ('model.backbone.type', 'RepVG', 'RepVG is not in the mmseg::model registry'),
        ('train_dataloader.dataset.type', 'City', 'City is not in the mmseg::dataset'),
        ('optim_wrapper.optimizer.momentumm', 1, "keyword argument 'momentumm'"),
        ('param_scheduler.0.typ', 1, "keyword argument 'typ'"),
    ],
)
def test_an_error_of_a_library_names_the_mistake(street_config_file, option, value, says):
    with pytest.raises((TypeError, KeyError), match=says):
        start(street_config_file, **{option: value}).train()


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ("_base_ = ['gone.py']", 'own.py cannot be read.*gone.py'),
        ('model = dict(', 'own.py cannot be read'),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, text, says):
    (tmp_path / 'own.py').write_text(text)
    with pytest.raises(ConfigError, match=f'(?s){says}'):
        load(tmp_path / 'own.py')


@pytest.mark.parametrize('folder', ['file', 'file/in', '/proc/none'])
def test_a_work_dir_that_cannot_be_written(street_config, tmp_path, folder):
    (tmp_path / 'file').touch()
    street_config.work_dir = str(tmp_path / folder)
    with pytest.raises(WriteError) as caught:
        build_runner(street_config)
    assert f'{street_config.work_dir} cannot be written: ' in str(caught.value)
    assert '--work-dir' in str(caught.value)


def test_no_training_form_where_the_config_builds_none(street_config, tmp_path):
    path = str(tmp_path / 'whole.pth')
    torch.save({'state_dict': MODELS.build(street_config.model).state_dict()}, path)
    street_config.model.backbone.deploy = True
    with pytest.raises(ConfigError, match=r'the config builds the fused form'):
        prepare_testing(street_config, path, fused=False)


def test_no_training_form_of_what_is_fused(street_config, tmp_path):
    fused = deploy(MODELS.build(street_config.model))
    path = str(tmp_path / 'fused.pth')
    torch.save({'state_dict': fused.state_dict()}, path)
    with pytest.raises(ConfigError, match=r'fused.pth is fused: .* --no-deploy'):
        prepare_testing(street_config, path, fused=False)


def test_a_test_loads_all_of_the_model_whatever_the_config_says(street_config, tmp_path):
    """A hook of the config's own may be for fine-tuning, which leaves heads at random."""
    state = MODELS.build(street_config.model).state_dict()
    path = tmp_path / 'checkpoint.pth'
    torch.save({'state_dict': state, 'meta': {}}, path)
    street_config.custom_hooks = [dict(type='mmseg.LoadHook', strict=False)]
    prepare_testing(street_config, str(path))
    (hook,) = [h for h in street_config.custom_hooks if 'LoadHook' in h['type']]
    assert hook.get('strict', True)


@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize('said', [None, False, True])
def test_what_is_resumed_fills_the_model(street_config, resume, said):
    """The config may be the dump of the run that began; and it may ask to be strict."""
    path = Path(street_config.work_dir) / 'iter_1.pth'
    path.parent.mkdir(exist_ok=True)
    state = MODELS.build(street_config.model).state_dict()
    torch.save({'state_dict': state, 'meta': {}, 'optimizer': {}}, path)
    street_config.custom_hooks = [dict(type='LoadHook', strict=said)] * (said is not None)
    street_config.resume, street_config.load_from = resume, str(path)
    prepare_training(street_config)
    (hook,) = [h for h in street_config.custom_hooks if 'LoadHook' in h['type']]
    assert hook['strict'] is (resume or bool(said))


def test_a_child_of_the_deploy_hook_goes_too(street_config, tmp_path):
    class OwnDeployHook(DeployHook):
        pass

    path = str(tmp_path / 'whole.pth')
    torch.save({'state_dict': MODELS.build(street_config.model).state_dict()}, path)
    HOOKS.register_module(module=OwnDeployHook)
    try:
        street_config.custom_hooks = [dict(type='OwnDeployHook')]
        fused = copy.deepcopy(street_config)
        prepare_testing(fused, path, engine='auto')
        assert [h for h in fused.custom_hooks if 'Deploy' in h['type']] == [
            dict(type='OwnDeployHook', engine='auto')
        ]
        prepare_testing(street_config, path, fused=False)
        assert not any('Deploy' in hook['type'] for hook in street_config.custom_hooks)
    finally:
        HOOKS.module_dict.pop('OwnDeployHook')


def test_a_config_without_default_hooks(street_config_file):
    text = Path(street_config_file).read_text()
    Path(street_config_file).write_text(f'{text}\ndel default_hooks\n')
    cfg = load(street_config_file)
    prepare_training(cfg)


def test_views_of_a_test_set_made_of_others(street_config, tmp_path):
    path = str(tmp_path / 'whole.pth')
    torch.save({'state_dict': MODELS.build(street_config.model).state_dict()}, path)
    loader = street_config.test_dataloader
    both = [loader.dataset, copy.deepcopy(loader.dataset)]
    loader.dataset = dict(type='ConcatDataset', datasets=both)
    prepare_testing(street_config, path, tta=True)
    data = build_runner(street_config).test_dataloader.dataset
    assert len(data) == 6
    assert len(data[5]['inputs']) > 1


def test_a_recipe_is_known_by_the_data_inside(street_config):
    street_config.optim_wrapper.optimizer.type = 'SGD'
    loader = street_config.train_dataloader
    loader.dataset = dict(type='RepeatDataset', times=2, dataset=loader.dataset)
    warnings = ' '.join(recipe_warnings(street_config, 1))
    assert 'the backbone starts from random weights' in warnings
