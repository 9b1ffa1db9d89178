"""Engines: what computes a plain convolution. Each maps a conv to one that computes it.

A conv that an engine leaves alone is returned as it is.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from ..errors import ConfigError
from .build import library
from .conv import WinogradConv2d, fits

Engine = Callable[[nn.Conv2d], nn.Conv2d]

MIN_CHANNELS = 32
"""Of input and of output, in a group: with fewer the transforms cost what they save."""

TRIAL_SIDE = 64
"""Height and width of the map of a trial: that of a 512x512 image at output stride 8."""


def pays(conv: nn.Conv2d) -> bool:
    """Tell by rule whether Winograd's algorithm is the faster one for a conv.

    Yes for a 3x3 conv of stride 1 that keeps the size, in float32, of 32 channels or more
    in and out of a group. On maps below 8x8 it is slower; measured in docs/winograd.md.
    """
    narrow = min(conv.in_channels, conv.out_channels) // conv.groups < MIN_CHANNELS
    return fits(conv) and conv.weight.dtype == torch.float32 and not narrow


def by_torch(conv: nn.Conv2d) -> nn.Conv2d:
    """Have PyTorch compute it. A conv that does a ReLU too is left to who knows why."""
    return conv.plain() if isinstance(conv, WinogradConv2d) and not conv.relu else conv


def by_rule(conv: nn.Conv2d) -> nn.Conv2d:
    """Have Winograd's algorithm compute it where that pays by rule.

    Raises:
        ValueError: If the conv is one for it, but not on a CPU.
    """
    if fits(conv) and conv.weight.device.type != 'cpu':
        raise ConfigError(
            "engine='winograd' computes on a CPU, but the model is on "
            f'{conv.weight.device}, where cuDNN chooses Winograd by itself: use '
            "engine='torch' there, or move the model by .cpu() first"
        )
    # Where it cannot be compiled there is nothing to gain.
    return WinogradConv2d(conv) if pays(conv) and library() else conv


def by_trial(conv: nn.Conv2d) -> nn.Conv2d:
    """Have the faster of both compute it; what is not float32 on a CPU, PyTorch."""
    conv = by_torch(conv)
    weight = conv.weight
    if not fits(conv) or weight.device.type != 'cpu' or weight.dtype != torch.float32:
        return conv
    if not library():
        return conv
    fast = _winograd_is_faster(
        conv.in_channels,
        conv.out_channels,
        conv.groups,
        conv.dilation[0],
        torch.get_num_threads(),
    )
    return WinogradConv2d(conv) if fast else conv


@functools.cache
def _winograd_is_faster(
    in_channels: int,
    out_channels: int,
    groups: int,
    dilation: int,
    threads: int,
) -> bool:
    """Time both, in turn; the number of threads is only what the answer holds for."""
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
    # Zeros: no number is drawn from the random generator of a training.
    weight = torch.zeros(direct.weight.shape)
    x = torch.zeros(1, in_channels, TRIAL_SIDE, TRIAL_SIDE)
    weight, x = (t.contiguous(memory_format=torch.channels_last) for t in (weight, x))
    direct.weight = nn.Parameter(weight, requires_grad=False)
    times: dict[nn.Module, list[float]] = {direct: [], WinogradConv2d(direct): []}
    for repeat in range(4):
        for conv, seconds in times.items():
            start = time.perf_counter()
            conv(x)
            # The first is for warming up.
            if repeat:
                seconds.append(time.perf_counter() - start)
    by_direct, by_winograd = map(statistics.median, times.values())
    return by_winograd < by_direct


ENGINES: dict[str, Engine] = {'torch': by_torch, 'winograd': by_rule, 'auto': by_trial}
"""By the name that ``deploy`` knows them by."""
