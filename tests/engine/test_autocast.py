"""Mixed precision: bfloat16 anywhere, and what --amp chooses."""

import pytest
import torch
from mmengine.runner import Runner

from mmseg_repvgg.engine.mixed_precision import use_amp
from mmseg_repvgg.errors import ConfigError


@pytest.mark.isa
def test_trains_in_bfloat16_with_float32_weights(street_config):
    street_config.optim_wrapper.type = 'BFloat16OptimWrapper'
    street_config.train_cfg.max_iters = 1
    runner = Runner.from_cfg(street_config)
    dtypes = set()
    conv = runner.model.backbone.stage_1[0].conv.branch_3x3.conv
    conv.register_forward_hook(lambda m, i, out: dtypes.add((m.training, out.dtype)))
    runner.train()
    # Evaluation, on the fused copy, is float32 and runs none of the branches, but for
    # DeployHook's comparison.
    assert dtypes == {(True, torch.bfloat16), (False, torch.float32)}
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}


def test_accumulates_gradients(street_config):
    street_config.optim_wrapper.update(type='BFloat16OptimWrapper', accumulative_counts=2)
    street_config.train_cfg.max_iters = 2
    Runner.from_cfg(street_config).train()


def choose(cfg, monkeypatch, amp, kind='OptimWrapper', cuda=True, bf16=True, **wrapper):
    """The optimizer wrapper that train.py --amp would build."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: bf16)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Old GPU')
    cfg.optim_wrapper.update(type=kind, **wrapper)
    use_amp(cfg, amp)
    chosen = dict(cfg.optim_wrapper)
    del chosen['optimizer']
    return chosen


FLOAT16 = dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
BFLOAT16 = dict(type='BFloat16OptimWrapper')


@pytest.mark.parametrize(
    ('amp', 'kind', 'cuda', 'expected'),
    [
        ('auto', 'OptimWrapper', True, FLOAT16),
        ('auto', 'OptimWrapper', False, BFLOAT16),
        ('auto', 'BFloat16OptimWrapper', True, BFLOAT16),
        ('auto', 'AmpOptimWrapper', True, dict(type='AmpOptimWrapper')),
        ('auto', 'AmpOptimWrapper', False, BFLOAT16),
        ('float16', 'OptimWrapper', True, FLOAT16),
        ('float16', 'BFloat16OptimWrapper', True, FLOAT16),
        ('bfloat16', 'OptimWrapper', True, BFLOAT16),
        ('bfloat16', 'OptimWrapper', False, BFLOAT16),
    ],
)
def test_amp_chooses(street_config, monkeypatch, amp, kind, cuda, expected):
    assert choose(street_config, monkeypatch, amp, kind, cuda) == expected


def test_amp_leaves_no_scaling_to_bfloat16(street_config, monkeypatch):
    scaled = dict(kind='AmpOptimWrapper', loss_scale=512.0, dtype='float16')
    assert choose(street_config, monkeypatch, 'bfloat16', **scaled) == BFLOAT16
    scaled = dict(kind='AmpOptimWrapper', loss_scale=512.0)
    chosen = choose(street_config, monkeypatch, 'float16', **scaled)
    assert chosen == dict(FLOAT16, loss_scale=512.0)


@pytest.mark.parametrize(
    ('amp', 'options', 'says'),
    [
        ('float16', dict(cuda=False), 'float16 needs a CUDA device.*bfloat16'),
        ('bfloat16', dict(bf16=False), 'Old GPU has not.*float16'),
        ('auto', dict(kind='Mine'), "'Mine'"),
    ],
)
def test_amp_that_cannot_be_is_an_error(street_config, monkeypatch, amp, options, says):
    with pytest.raises(ConfigError, match=says):
        choose(street_config, monkeypatch, amp, **options)
