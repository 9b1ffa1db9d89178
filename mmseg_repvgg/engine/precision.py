"""Mixed precision on machines that compute it fast."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS
from torch import nn

from ..errors import ConfigError
from ..registry_types import type_name
from ..reparam import RepConv, RepVGGBlock

DTYPES = ('auto', 'bfloat16', 'float32')

MIN_SPEEDUP = 1.1
"""Least speedup of a training step for which ``auto`` chooses bfloat16 on a CPU."""


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` whose forward passes run in bfloat16 where that pays.

    mmengine's ``AmpOptimWrapper`` does not run on CPUs and leaves the choice to the user.
    Weights, gradients and the optimizer's state stay float32. bfloat16 has the range of
    float32, so the loss needs no scaling. The choice is saved with the optimizer's state,
    so that a resumed run keeps its precision.

    Args:
        dtype: ``bfloat16``, ``float32``, or ``auto`` for :func:`choose_dtype`.
        **kwargs: As for ``OptimWrapper``.

    Raises:
        ConfigError: If ``dtype`` is not one of these.
    """

    def __init__(self, dtype: str = 'auto', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dtype not in DTYPES:
            raise ConfigError(f'dtype must be one of {DTYPES}, but got {dtype!r}')
        self.requested, self.dtype = dtype, dtype
        if dtype == 'auto':
            self.dtype, reason = choose_dtype()
            print_log(f'Precision: {self.dtype}, {reason}', 'current')
        elif dtype == 'bfloat16' and get_device() == 'cpu':
            _warn_of_emulation()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast within mmengine's context of gradient accumulation."""
        device = next(model.parameters()).device.type
        half = self.dtype == 'bfloat16'
        with (
            super().optim_context(model),
            torch.autocast(device, torch.bfloat16, enabled=half),
        ):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and the precision."""
        return {**super().state_dict(), 'autocast_dtype': self.dtype}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the optimizer's state and, unless one was requested, the precision."""
        state = dict(state_dict)
        before = state.pop('autocast_dtype', self.dtype)
        super().load_state_dict(state)
        if self.requested == 'auto' and before in DTYPES and before != self.dtype:
            self.dtype = before
            print_log(f'Precision: {before}, as before the run was resumed', 'current')
            if before == 'bfloat16' and get_device() == 'cpu':
                _warn_of_emulation()


def choose_dtype() -> tuple[str, str]:
    """Choose the precision of a training for this machine, the same for all processes.

    A GPU reports whether it has bfloat16 units. A CPU is measured, since PyTorch reports
    bfloat16 as supported also on CPUs that emulate it, up to 19 times slower.

    Returns:
        ``bfloat16`` or ``float32``, and the reason.
    """
    device = get_device()
    if device == 'cpu':
        slowdown = _agreed_slowdown()
        dtype = 'bfloat16' if slowdown * MIN_SPEEDUP <= 1 else 'float32'
        return dtype, f'since this CPU trains {_ratio(slowdown)}'
    if device == 'cuda' and has_bfloat16_units():
        return 'bfloat16', f'for which {torch.cuda.get_device_name()} has units'
    return 'float32', f'since this {device} device has no bfloat16 units'


def has_bfloat16_units() -> bool:
    """Return whether the GPU has bfloat16 units, which PyTorch emulates on older ones."""
    return torch.cuda.get_device_capability() >= (8, 0)


def use_amp(cfg: Config, dtype: str) -> None:
    """Make a config train in mixed precision.

    ``float16`` comes with loss scaling. ``auto`` is float16 on a GPU without bfloat16
    units, and elsewhere what :func:`choose_dtype` returns.

    Raises:
        ConfigError: If the config has another optimizer wrapper, or the device lacks that
            precision.
    """
    wrapper = cfg.optim_wrapper
    name = type_name(wrapper) or 'OptimWrapper'
    if name not in ('OptimWrapper', 'AmpOptimWrapper', 'AutocastOptimWrapper'):
        raise ConfigError(
            f"--amp needs a config with optim_wrapper type 'OptimWrapper', got {name!r}"
        )
    cuda = torch.cuda.is_available()
    old_gpu = cuda and not has_bfloat16_units()
    if dtype == 'float16' or (dtype == 'auto' and old_gpu):
        if not cuda:
            raise ConfigError(
                '--amp float16 needs a CUDA device, but torch finds none: use --amp auto'
            )
        wrapper.type, wrapper.dtype = 'AmpOptimWrapper', 'float16'
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    if old_gpu:
        raise ConfigError(
            '--amp bfloat16 needs a GPU with bfloat16 units, which '
            f'{torch.cuda.get_device_name()} lacks: use --amp float16'
        )
    wrapper.type, wrapper.dtype = 'AutocastOptimWrapper', dtype
    for scaling in ('loss_scale', 'use_fsdp'):
        wrapper.pop(scaling, None)


def measure_bfloat16_slowdown() -> float:
    """Measure the time of a training step in bfloat16 over that in float32.

    Trains one RepVGG block, that of A0's stage 3 at crops of 256x256, in both precisions
    by turns, for half a second and at least four times each. It runs in one thread, whose
    processor time other processes hardly change, and the shortest times are compared.
    This takes about 1.5 seconds where bfloat16 is emulated. The state of torch's random
    generators and its number of threads are kept.
    """
    with torch.random.fork_rng(devices=()):
        block = RepVGGBlock(RepConv(96, 96, identity=True))
        x = torch.rand(4, 96, 32, 32, requires_grad=True)
    times: dict[bool, list[float]] = {False: [], True: []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        end = time.perf_counter() + 0.5
        while len(times[True]) < 4 or time.perf_counter() < end:
            for half, taken in times.items():
                start = time.thread_time()
                with torch.autocast('cpu', torch.bfloat16, enabled=half):
                    out = block(x)
                out.float().sum().backward()
                taken.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times[True]) / min(times[False])


def _agreed_slowdown() -> float:
    """Measure in all processes at once, and return what the first one found."""
    slowdown = [measure_bfloat16_slowdown()]
    broadcast_object_list(slowdown)
    return slowdown[0]


def _warn_of_emulation() -> None:
    if (slowdown := _agreed_slowdown()) > 1:
        print_log(
            f'This CPU trains {_ratio(slowdown)}: --amp auto chooses the faster one',
            'current',
            logging.WARNING,
        )


def _ratio(slowdown: float) -> str:
    ratio, how = (slowdown, 'slower') if slowdown > 1 else (1 / slowdown, 'faster')
    return f'{ratio:.1f}x {how} in bfloat16 than in float32'
