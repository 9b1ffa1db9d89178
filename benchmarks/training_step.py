"""Time and memory of a training step: ours and mmpretrain's backbone, or our blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from prettytable import PrettyTable, TableStyle
from torch import nn

from benchmarks.memory import peak_memory
from benchmarks.timing import Spread, time_alternating
from mmseg_repvgg import RepVGG

Options = dict[str, Any]

FORMS: dict[str, Options | None] = {
    'mmpretrain': None,
    'ours': dict(with_cp=False),
    'ours, with_cp="1x1"': dict(with_cp='1x1'),
    'ours, with_cp=True': dict(with_cp=True),
}
"""Arguments of RepVGG by the name of the form; None for mmpretrain's."""


def build_step(
    arch: str, options: Options | None, shape: Sequence[int], seed: int = 0
) -> Callable[[], float]:
    """Build a network with output stride 32, as mmpretrain has it, and an optimizer.

    Args:
        arch: Name of the architecture, such as ``B1g2``.
        options: Arguments of RepVGG; None builds mmpretrain's.
        shape: Shape of the images, (B, 3, H, W).
        seed: Seed of weights and images.

    Returns:
        A function that runs a training step on the four feature maps and returns its
        loss.
    """
    torch.manual_seed(seed)
    net: nn.Module
    if options is None:
        from mmpretrain.models.backbones import RepVGG as PeerRepVGG

        net = PeerRepVGG(arch, out_indices=(0, 1, 2, 3))
    else:
        net = RepVGG(arch, dilation=None, **options)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(*shape)

    def step() -> float:
        loss = sum(features.square().mean() for features in net(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    step()  # The optimizer allocates its momentum in the first step.
    return step


def training_table(
    arch: str,
    shape: Sequence[int],
    *,
    rounds: int,
    forms: Mapping[str, Options | None] = FORMS,
) -> PrettyTable:
    """Measure the forms of a network against the first of them.

    Time is measured in alternating rounds, memory in a process for each form.
    """
    memory = {
        form: peak_memory(build_step, arch, options, shape).total
        for form, options in forms.items()
    }
    steps = {form: build_step(arch, options, shape) for form, options in forms.items()}
    times = time_alternating(steps, rounds=rounds, warmup=1)
    table = PrettyTable([arch, 'seconds', 'time', 'MB', 'memory'])
    table.set_style(TableStyle.MARKDOWN)
    first = next(iter(forms))
    for form in forms:
        slowdown = [
            own / peer for own, peer in zip(times.seconds[form], times.seconds[first])
        ]
        ratio = Spread.of(slowdown)
        table.add_row(
            [
                form,
                f'{times.spread(form).median:.2f}',
                f'{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})',
                f'{memory[form] / 1e6:.0f}',
                f'{memory[form] / memory[first]:.2f}',
            ]
        )
    return table
