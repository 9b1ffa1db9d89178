"""bfloat16 on the CPU."""

import torch
from mmengine.runner import Runner


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
    Runner.from_cfg(street_config).train()
