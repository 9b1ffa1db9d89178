"""A segmentor small enough to be exported in seconds, and its checkpoint."""

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS


def make_small(cfg: Config) -> Config:
    """Of every kind of layer that A0 has, one or two, and narrow."""
    arch = dict(depths=(1, 2, 2, 1), a=0.25, b=0.25)
    cfg.model.backbone.update(arch=arch, dilation='full')
    cfg.model.decode_head.update(in_channels=128, channels=16)
    cfg.model.auxiliary_head.update(in_channels=64, channels=16)
    return cfg


@pytest.fixture(scope='session', name='make_small')
def _make_small():
    return make_small


@pytest.fixture
def cfg(street_config) -> Config:
    return make_small(street_config)


@pytest.fixture
def checkpoint(cfg, randomize_norms, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('checkpoint') / 'small.pth'
    torch.save(
        {'state_dict': randomize_norms(MODELS.build(cfg.model)).state_dict()}, path
    )
    return str(path)


@pytest.fixture
def model(cfg, checkpoint):
    from mmseg_repvgg.engine.load_model import load_model

    return load_model(cfg, checkpoint)
