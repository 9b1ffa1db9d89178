"""Fixtures for configs as the tools load them."""

import pytest
import torch
from mmseg.registry import MODELS

from mmseg_repvgg.engine.config import load_config


@pytest.fixture
def logged(monkeypatch):
    """Return what is logged while a config is prepared."""
    said = []
    for module in ('config', 'testing', 'training'):
        name = f'mmseg_repvgg.engine.{module}.print_log'
        monkeypatch.setattr(name, lambda text, *_: said.append(text))
    return said


@pytest.fixture(name='load')
def _load():
    """Return a function that loads a config file with options."""

    def load(path, work_dir=None, **options):
        return load_config(path, options, work_dir=work_dir)

    return load


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a checkpoint of random weights for a config."""

    def save(cfg, **more):
        path = tmp_path / 'whole.pth'
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), **more), path)
        return str(path)

    return save


SCOPES = {
    'RepVGG': 'mmseg_repvgg',
    'DeployHook': 'mmseg_repvgg.hooks',
    'LoadHook': 'mmseg_repvgg.hooks',
    'CityscapesDataset': 'mmseg.datasets',
    'CheckpointHook': 'mmengine.hooks',
    'IterBasedTrainLoop': 'mmengine.runner',
    'OptimWrapper': 'mmengine.optim',
}


@pytest.fixture(params=['scoped', 'class'])
def typed_config(street_config, load, tmp_path, request):
    """Return a config whose types are names with a scope, or classes."""
    path = tmp_path / 'config.py'
    street_config.default_hooks.checkpoint.type = 'CheckpointHook'
    text = street_config.pretty_text
    for name, module in SCOPES.items():
        bare = f"type='{name}'"
        assert bare in text, name
        if request.param == 'class':
            # An import makes mmengine take the config for one of the lazy style.
            text = f'from {module} import {name}\n' + text.replace(bare, f'type={name}')
        else:
            scope = 'mmengine' if 'mmengine' in module else 'mmseg'
            text = text.replace(bare, f"type='{scope}.{name}'")
    if request.param == 'class':
        text = text.replace("default_scope = 'mmseg'", 'default_scope = None')
    path.write_text(text)
    return load(path)


@pytest.fixture
def full(street_config):
    """Return a config with every key of ours and a model that trains at once."""
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
