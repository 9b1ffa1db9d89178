"""What ``--amp`` makes of a config: float16 or bfloat16, as the machine has it."""

from __future__ import annotations

import torch
from mmengine.config import Config

from ..errors import ConfigError
from ..kinds import kind_of


def use_amp(cfg: Config, dtype: str) -> None:
    """Have a config train in mixed precision.

    Args:
        cfg: Of a training; changed in place.
        dtype: ``float16``, with loss scaling, ``bfloat16``, or ``auto``: what the config
            has if the machine can do it, else float16 on CUDA and bfloat16 on a CPU.

    Raises:
        ConfigError: If the config has an optimizer wrapper of another kind, or the
            machine hasn't that precision.
    """
    wrapper = cfg.optim_wrapper
    kind = kind_of(wrapper) or 'OptimWrapper'
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'BFloat16OptimWrapper'):
        raise ConfigError(
            f"--amp needs a config with optim_wrapper type 'OptimWrapper', got {kind!r}"
        )
    cuda = torch.cuda.is_available()
    if dtype == 'auto':
        if kind == 'BFloat16OptimWrapper' or (kind == 'AmpOptimWrapper' and cuda):
            return
        dtype = 'float16' if cuda else 'bfloat16'
    if dtype == 'float16':
        if not cuda:
            raise ConfigError(
                '--amp float16 needs a CUDA device, and there is none: --amp bfloat16 '
                'is what a CPU has'
            )
        wrapper.type, wrapper.dtype = 'AmpOptimWrapper', dtype
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    if cuda and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f'--amp bfloat16 needs a GPU that has it, and {torch.cuda.get_device_name()} '
            'has not: give --amp float16'
        )
    wrapper.type = 'BFloat16OptimWrapper'
    for scaling in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(scaling, None)
