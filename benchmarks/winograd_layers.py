"""Time and error of single convolutions, direct and by the Winograd engine."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from prettytable import PrettyTable, TableStyle
from torch import Tensor, nn

from benchmarks.machine import using_threads
from benchmarks.timing import time_alternating
from mmseg_repvgg.winograd import WinogradConv2d
from mmseg_repvgg.winograd.conv import PRECISIONS

NUMBERS = ('IN', 'OUT', 'GROUPS', 'HEIGHT', 'WIDTH', 'DILATION')
LAYERS = [
    (160, 160, 1, 64, 128, 1),
    (320, 320, 1, 32, 64, 1),
    (640, 640, 1, 32, 64, 2),
    (640, 2560, 1, 32, 64, 4),
    (640, 640, 1, 90, 90, 2),
    (512, 512, 2, 32, 64, 2),
    (128, 128, 2, 64, 128, 1),
]
"""Layers of B2 and B1g2 by :data:`NUMBERS`."""


@torch.inference_mode()
def measure_layer(layer: tuple[int, ...], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds and the largest error of each form.

    The error is against float64, relative to the largest output.

    Args:
        layer: As in :data:`LAYERS`.
        rounds: Number of timed rounds.
    """
    channels, out, groups, height, width, d = layer
    conv = nn.Conv2d(channels, out, 3, 1, d, d, groups, bias=False)
    x = torch.randn(1, channels, height, width).relu()
    exact = conv.double()(x.double())
    last = torch.channels_last
    conv = conv.float().to(memory_format=last)  # type: ignore[call-overload]
    x = x.contiguous(memory_format=last)
    runs: dict[str, Callable[[], Tensor]] = {'direct': partial(conv, x)}
    runs |= {name: partial(WinogradConv2d(conv, name), x) for name in PRECISIONS}
    timings = time_alternating(runs, rounds=rounds)
    errors = {form: (run() - exact).abs().max() for form, run in runs.items()}
    return {
        form: (timings.spread(form).median, float(error / exact.abs().max()))
        for form, error in errors.items()
    }


def layer_table(
    layers: Sequence[tuple[int, ...]], *, threads: int, rounds: int
) -> PrettyTable:
    """Return the milliseconds and errors of the forms of each layer."""
    table = PrettyTable([*NUMBERS, 'direct, ms and error', *PRECISIONS])
    table.set_style(TableStyle.MARKDOWN)
    with using_threads(threads):
        for layer in layers:
            measured = measure_layer(layer, rounds).values()
            cells = [f'{1e3 * seconds:.2f}, {error:.1e}' for seconds, error in measured]
            table.add_row([*layer, *cells])
    return table
