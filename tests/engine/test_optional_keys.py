"""A key that mmengine makes optional is optional for the tools as well."""

import copy
from argparse import Namespace

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from yapf.yapflib import yapf_api

from mmseg_repvgg.engine.launch import (
    build_runner,
    load_config,
    prepare_testing,
    prepare_training,
    recipe_warnings,
)
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.hooks import CrashSafeCheckpointHook, SampleHook

NEEDED = {'model', 'train_dataloader', 'train_cfg', 'optim_wrapper'}
VAL = ('val_dataloader', 'val_cfg', 'val_evaluator')
TEST = ('test_dataloader', 'test_cfg', 'test_evaluator')


@pytest.fixture(autouse=True)
def _dumps_are_not_beautified(monkeypatch):
    """That is most of the time of a short training."""
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, True))


@pytest.fixture
def full(street_config):
    """Every key that the project's configs have, and a model that trains at once."""
    cfg = street_config
    arch = dict(depths=(1, 1, 1, 1), a=0.25, b=0.125)
    cfg.model.backbone.update(arch=arch)
    cfg.model.decode_head.update(in_channels=64, channels=8)
    cfg.model.auxiliary_head.update(in_channels=64, channels=8)
    cfg.merge_from_dict({'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1})
    cfg.merge_from_dict({'default_hooks.checkpoint.interval': 1, 'tensorboard': False})
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.serialize_data = False  # It would collect garbage at each start.
    return cfg


def load(cfg, folder):
    path = folder / 'config.py'
    cfg.dump(path)
    args = dict(work_dir=str(folder / 'work'), launcher='none', local_rank=0)
    return load_config(Namespace(config=str(path), cfg_options=None, **args))


def prepare(cfg, folder, **options):
    folder.mkdir(exist_ok=True)
    cfg = load(cfg, folder)
    prepare_training(cfg, **options)
    recipe_warnings(cfg, 1)
    return cfg


def train(cfg, folder, **options):
    runner = build_runner(prepare(cfg, folder, **options))
    runner.train()
    return runner


def test_every_key_can_be_left_out(full, tmp_path):
    """Each alone, and one after the other until none is left."""
    optional = [(key,) for key in full if key not in {*NEEDED, *VAL, *TEST}]
    fewer = copy.deepcopy(full)
    for number, keys in enumerate([*optional, VAL, TEST]):
        alone = copy.deepcopy(full)
        for key in keys:
            alone.pop(key), fewer.pop(key)
        prepare(alone, tmp_path / f'alone_{number}')
        train(fewer, tmp_path / f'fewer_{number}')
    assert set(fewer) == NEEDED


@pytest.mark.parametrize(
    'key',
    [
        *('default_hooks', 'custom_hooks', 'visualizer', 'param_scheduler'),
        *('auto_scale_lr', 'log_processor', 'load_from', 'default_scope'),
    ],
)
def test_a_key_can_be_none(full, tmp_path, key):
    full[key] = None
    train(full, tmp_path)


def test_each_hook_can_be_turned_off(full, tmp_path):
    full.default_hooks.samples = dict(type='SampleHook')
    for name in full.default_hooks:
        cfg, folder = copy.deepcopy(full), tmp_path / name
        cfg.default_hooks[name] = None
        hooks = train(cfg, folder).hooks
        saves = any(isinstance(hook, CrashSafeCheckpointHook) for hook in hooks)
        assert saves == (name != 'checkpoint')
        assert bool(list(folder.glob('work/*.pth'))) == saves
        counts = [hook.count for hook in hooks if isinstance(hook, SampleHook)]
        assert counts == [0 if name == 'samples' else 4]


@pytest.fixture
def barest(full):
    bare = {key: full[key] for key in NEEDED}
    bare['optim_wrapper'] = dict(optimizer=dict(type='SGD', lr=0.01))
    bare['train_cfg'] = dict(by_epoch=False, max_iters=1)
    del bare['train_dataloader']['batch_size']
    del bare['model']['decode_head'], bare['model']['auxiliary_head']
    # One image at once, which PSPNet's pooling cannot train on.
    head = dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=19)
    bare['model']['decode_head'] = head
    return Config(bare)


def test_the_barest_config_trains_and_resumes(barest, tmp_path):
    saved = tmp_path / 'work' / 'epoch_1.pth'
    assert train(barest, tmp_path).iter == 1
    assert saved.with_name('epoch_1.pth.sha256').is_file()
    barest.train_cfg.max_iters = 2
    assert train(barest, tmp_path, resume=True).iter == 2


@pytest.mark.parametrize('options', [dict(global_batch=4), dict(amp='bfloat16')])
def test_shorthands_take_the_options_of_a_training(barest, tmp_path, options):
    assert train(barest, tmp_path, **options).iter == 1


def test_scaling_the_learning_rate_needs_the_batch_it_is_for(barest, tmp_path):
    with pytest.raises(ConfigError, match=r'auto_scale_lr\.base_batch_size'):
        prepare(barest, tmp_path, auto_scale_lr=True)


@pytest.mark.parametrize('key', ['train_dataloader', 'train_cfg', 'optim_wrapper'])
def test_what_a_training_needs_is_named(barest, tmp_path, key):
    barest.pop(key)
    with pytest.raises(ConfigError, match=f'no {key}'):
        train(barest, tmp_path)


def save(cfg, folder):
    path = str(folder / 'whole.pth')
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, path)
    return path


def test_a_bare_config_is_tested_with_pictures(full, tmp_path):
    cfg = load(Config({key: full[key] for key in ('model', *TEST)}), tmp_path)
    shown = tmp_path / 'shown'
    prepare_testing(cfg, save(cfg, tmp_path), show_dir=str(shown))
    assert 'mIoU' in build_runner(cfg).test()
    assert len(list(shown.rglob('*.png'))) == 3


def test_what_a_test_needs_is_named(full, tmp_path):
    full.pop('test_evaluator')
    cfg = load(full, tmp_path)
    with pytest.raises(ConfigError, match='no test_evaluator'):
        prepare_testing(cfg, save(cfg, tmp_path))


def test_a_preprocessor_outside_of_the_model_is_the_models(full, tmp_path):
    full.data_preprocessor = full.model.pop('data_preprocessor')
    cfg = load(full, tmp_path)
    model = load_model(cfg, save(cfg, tmp_path))
    mean = model.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(full.data_preprocessor.mean)
