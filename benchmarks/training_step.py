"""Time and memory of a training step of the backbone, ours against mmpretrain's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from prettytable import PrettyTable, TableStyle
from torch import nn

from benchmarks.memory import peak_memory
from benchmarks.timing import Spread, time_alternating
from mmseg_repvgg import RepVGG

FORMS: dict[str, dict[str, Any] | None] = {
    'mmpretrain': None,
    'ours': dict(with_cp=False),
    'ours, with_cp="1x1"': dict(with_cp='1x1'),
    'ours, with_cp=True': dict(with_cp=True),
}
"""Arguments of RepVGG by the name of the form; None for the peer, which comes first."""


def build_step(
    arch: str, form: str, shape: Sequence[int], seed: int = 0
) -> Callable[[], float]:
    """Build a network with output stride 32, as mmpretrain has it, and an optimizer.

    Args:
        arch: Name of the architecture, such as ``B1g2``.
        form: A name in :data:`FORMS`.
        shape: Shape of the images, (B, 3, H, W).
        seed: Seed of weights and images.

    Returns:
        A function that runs a training step on the four feature maps and returns its
        loss.
    """
    torch.manual_seed(seed)
    options = FORMS[form]
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
    arch: str, shape: Sequence[int], *, rounds: int, forms: Sequence[str] = (*FORMS,)
) -> PrettyTable:
    """Measure the forms of a network against the first of them.

    Time is measured in alternating rounds, memory in a process for each form.
    """
    memory = {form: peak_memory(build_step, arch, form, shape).total for form in forms}
    steps = {form: build_step(arch, form, shape) for form in forms}
    times = time_alternating(steps, rounds=rounds, warmup=1)
    table = PrettyTable([arch, 'seconds', 'time', 'MB', 'memory'])
    table.set_style(TableStyle.MARKDOWN)
    for form in forms:
        slowdown = [
            own / peer for own, peer in zip(times.seconds[form], times.seconds[forms[0]])
        ]
        ratio = Spread.of(slowdown)
        table.add_row(
            [
                form,
                f'{times.spread(form).median:.2f}',
                f'{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})',
                f'{memory[form] / 1e6:.0f}',
                f'{memory[form] / memory[forms[0]]:.2f}',
            ]
        )
    return table
