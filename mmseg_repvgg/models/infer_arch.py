"""Infer the architecture of a RepVGG backbone from the shapes of its tensors.

The functions take state dicts with our keys, without prefix, in either form. The last
stages may be missing: a backbone is built up to its last output only.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import ConfigError
from .archs import ARCHS, Arch, plan

KernelShapes = list[list[tuple[int, ...]]]
"""The shapes of the 3x3 kernels of each stage, the stem being the first stage."""


def infer_name(backbone: Mapping[str, Tensor]) -> str | None:
    """Return the name of a backbone's architecture.

    Returns:
        A name of :data:`~mmseg_repvgg.models.archs.ARCHS`; None if none or several fit.
    """
    shapes, se = kernel_shapes(backbone), has_se(backbone)
    names = [
        name
        for name, arch in ARCHS.items()
        if se == arch.se and shapes and shapes == _planned(arch, shapes)
    ]
    return names[0] if len(names) == 1 else None


def infer_arch(backbone: Mapping[str, Tensor]) -> Arch | None:
    """Work out the fields of a backbone's architecture, whether it has a name or not.

    Returns:
        The architecture, with one layer in each missing stage; None if no RepVGG has
        these shapes.
    """
    shapes = kernel_shapes(backbone)
    layers = [shape for stage in shapes for shape in stage]
    if (
        len(shapes) < 2
        or not all(shapes)
        or any(len(s) != 4 or min(s) < 1 for s in layers)
    ):
        return None
    widths = [stage[0][0] for stage in shapes]
    # A width is its multiple rounded down, so the widest stage gives the best estimate.
    a = next((widths[s] / (32 << s) for s in (3, 2, 1) if s < len(widths)), 1)
    b = widths[4] / 512 if len(widths) > 4 else 1
    groups = max((x[0] // y[1] for x, y in zip(layers, layers[1:])), default=1)
    d2, d3, d4, d5 = [len(stage) for stage in shapes[1:]] + [1] * (5 - len(shapes))
    try:
        arch = Arch((d2, d3, d4, d5), a, b, groups, se=has_se(backbone))
    except ConfigError:
        return None
    return arch if shapes == _planned(arch, shapes) else None


def kernel_shapes(backbone: Mapping[str, Tensor]) -> KernelShapes:
    """Collect the shapes of the 3x3 kernels, up to the last stage that has any."""
    stages: KernelShapes = [[], [], [], [], []]
    for key, value in backbone.items():
        stage, *_ = key.split('.')
        if key.endswith('.conv.weight') and '.branch_1x1.' not in key:
            stages[0 if stage == 'stem' else int(stage[-1])].append(tuple(value.shape))
    while stages and not stages[-1]:
        stages.pop()
    return stages


def has_se(backbone: Mapping[str, Tensor]) -> bool:
    """Return whether a backbone has squeeze-and-excitation."""
    return any('.se.' in key for key in backbone)


def in_channels(shapes: KernelShapes) -> int:
    """Return the number of channels of the image; 3 if the shapes do not tell."""
    stem = shapes[0][0] if shapes and shapes[0] else ()
    return stem[1] if len(stem) == 4 and stem[1] else 3


def _planned(arch: Arch, shapes: KernelShapes) -> KernelShapes:
    """Lay out an architecture with the input channels and the stages of ``shapes``."""
    stages = plan(arch, None, in_channels(shapes))[: len(shapes)]
    return [
        [(layer.out_channels, layer.in_channels // layer.groups, 3, 3) for layer in stage]
        for stage in stages
    ]
