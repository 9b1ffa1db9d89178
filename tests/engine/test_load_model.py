"""Segmentors from a config and a checkpoint."""

import copy

import pytest
import torch

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.metadata import describe
from mmseg_repvgg.reparam import RepConv


def test_types_may_be_written_in_any_way(typed_config, save):
    model = load_model(typed_config, save(typed_config))
    shape = (1, 3, 64, 128)
    facts = describe(typed_config, model, output='logits', shape=shape, normalize=False)
    assert (facts.backbone, facts.dilation) == ('RepVGG', 'full')
    assert facts.arch == dict(depths=[1, 2, 6, 1], a=0.25, b=0.25)
    assert facts.dump()


def test_a_fused_checkpoint_gives_a_fused_model(typed_config, save, tmp_path):
    fused = deploy(load_model(copy.deepcopy(typed_config), save(typed_config)))
    torch.save({'state_dict': fused.state_dict()}, tmp_path / 'fused.pth')
    model = load_model(typed_config, str(tmp_path / 'fused.pth'))
    assert not any(isinstance(module, RepConv) for module in model.modules())


def test_a_preprocessor_outside_of_the_model_is_used(full, load, tmp_path, save):
    full.data_preprocessor = full.model.pop('data_preprocessor')
    full.dump(tmp_path / 'config.py')
    cfg = load(tmp_path / 'config.py')
    model = load_model(cfg, save(cfg))
    mean = model.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(full.data_preprocessor.mean)


def test_a_fused_checkpoint_with_shortcuts_is_recognised(street_config, save, tmp_path):
    street_config.model.backbone.update(residual=True, arch=dict(depths=(2, 2, 2, 1)))
    trained = load_model(copy.deepcopy(street_config), save(street_config))
    torch.save({'state_dict': deploy(trained).state_dict()}, tmp_path / 'fused.pth')
    model = load_model(street_config, str(tmp_path / 'fused.pth'))
    assert not any(isinstance(module, RepConv) for module in model.modules())
