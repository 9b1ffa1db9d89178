"""Engines: what computes the convolutions of a deployed model.

An engine is a function that maps a convolution, and a precision of
:class:`~mmseg_repvgg.winograd.WinogradConv2d`, to one that computes the same. It returns
a convolution that it does not support unchanged.
"""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from repvgg_runtime.errors import ConfigError
from repvgg_runtime.kernels.build import library

from .conv import PRECISIONS, WinogradConv2d, fits

Conv = nn.Conv2d | WinogradConv2d
Engine = Callable[[Conv, str], Conv]

MIN_CHANNELS = 32
"""Channels in and out of a group below which the transforms cost what they save."""

TRIAL_SIDE = 64
"""Height and width of the map of a trial: that of a 512x512 image at output stride 8."""


def pays(conv: nn.Module) -> bool:
    """Return whether Winograd's algorithm is the faster one for a conv, by rule.

    The rule is a 3x3 conv of stride 1 that keeps the size, in float32, of 32 channels or
    more in and out of a group. On maps below 8x8 it is slower. docs/winograd.md has the
    measurements.
    """
    return (
        isinstance(conv, nn.Conv2d)
        and fits(conv)
        and conv.weight.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) // conv.groups >= MIN_CHANNELS
    )


def by_torch(conv: Conv, precision: str) -> Conv:
    """Return an ``nn.Conv2d``."""
    return conv.plain() if type(conv) is WinogradConv2d else conv


def by_rule(conv: Conv, precision: str) -> Conv:
    """Return a :class:`WinogradConv2d` if that pays by rule.

    Raises:
        ConfigError: If the conv is one for it, but not on a CPU.
    """
    if fits(conv) and conv.weight.device.type != 'cpu':
        raise ConfigError(
            "engine='winograd' computes on a CPU, but the model is on "
            f'{conv.weight.device}, where cuDNN chooses Winograd by itself: use '
            "engine='torch' there, or move the model by .cpu() first"
        )
    if isinstance(conv, WinogradConv2d):
        same = conv.precision == precision
        return conv if same else type(conv)(conv, precision)
    # Without a compiler there is nothing to gain.
    return WinogradConv2d(conv, precision) if pays(conv) and library() else conv


def by_trial(conv: Conv, precision: str) -> Conv:
    """Return what a trial finds faster for float32 on a CPU, else an ``nn.Conv2d``."""
    conv = by_torch(conv, precision)
    if (
        not fits(conv)
        or conv.weight.device.type != 'cpu'
        or conv.weight.dtype != torch.float32
        or not library()
    ):
        return conv
    is_faster = _winograd_is_faster(
        conv.in_channels,
        conv.out_channels,
        conv.groups,
        conv.dilation[0],
        torch.get_num_threads(),
        precision,
    )
    return WinogradConv2d(conv, precision) if is_faster else conv


@functools.cache
def _winograd_is_faster(
    in_channels: int,
    out_channels: int,
    groups: int,
    dilation: int,
    threads: int,
    precision: str,
) -> bool:
    """Time both by turns. The number of threads is part of what the answer holds for."""
    direct = nn.Conv2d(
        in_channels,
        out_channels,
        3,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
        device='meta',
    )
    # Zeros, so that nothing is drawn from the random generator of a training.
    weight = torch.zeros(direct.weight.shape)
    x = torch.zeros(1, in_channels, TRIAL_SIDE, TRIAL_SIDE)
    weight, x = (t.contiguous(memory_format=torch.channels_last) for t in (weight, x))
    direct.weight = nn.Parameter(weight, requires_grad=False)
    return is_faster(WinogradConv2d(direct, precision), direct, x)


def is_faster(candidate: nn.Module, current: nn.Module, x: torch.Tensor) -> bool:
    """Time two modules by turns on an input; return whether the first is faster."""
    times: dict[nn.Module, list[float]] = {current: [], candidate: []}
    for repeat in range(4):
        for module, seconds in times.items():
            start = time.perf_counter()
            module(x)
            # The first run is a warm-up.
            if repeat:
                seconds.append(time.perf_counter() - start)
    return statistics.median(times[candidate]) < statistics.median(times[current])


ENGINES: dict[str, Engine] = {
    'torch': by_torch,
    'phases': by_torch,
    'winograd': by_rule,
    'auto': by_trial,
}
"""Engines by the names that ``deploy`` takes.

``reparam/phases.py`` adds what ``phases`` and ``auto`` do with runs of dilated convs.
"""


def check_engine(engine: str, precision: str) -> None:
    """Check the arguments that ``deploy`` and ``DeployHook`` share.

    Raises:
        ConfigError: If one is unknown, or the engine has no such precision.
    """
    if engine not in ENGINES:
        raise ConfigError(f'engine must be one of {tuple(ENGINES)}, but got {engine!r}')
    if precision not in PRECISIONS:
        raise ConfigError(
            f'precision must be one of {tuple(PRECISIONS)}, but got {precision!r}'
        )
    if precision != 'highest' and engine not in ('winograd', 'auto'):
        raise ConfigError(
            f"precision={precision!r} needs engine='winograd' or 'auto', but got "
            f'engine={engine!r}'
        )
