"""Infer the architecture of a RepVGG backbone from the shapes of its tensors.

State dicts have our keys, without prefix, in either form. The last stages may be missing,
since a backbone is built up to its last output only.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import ConfigError
from .archs import ARCHS, Arch, plan

KernelShapes = list[list[tuple[int, ...]]]
"""The shapes of the 3x3 kernels of each stage, the stem being the first stage."""


def infer_arch(backbone: Mapping[str, Tensor]) -> Arch | None:
    """Infer the architecture of a backbone, whether it has a name or not.

    Returns:
        One of :data:`~mmseg_repvgg.models.archs.ARCHS` if the tensors fit it, otherwise
        one with a single layer in each missing stage; None if no RepVGG has these shapes.
    """
    shapes, se = kernel_shapes(backbone), has_se(backbone)
    if len(shapes) > 1:
        for arch in (*ARCHS.values(), _estimate(shapes, se)):
            if arch is not None and arch.se == se and shapes == _planned(arch, shapes):
                return arch
    return None


def _estimate(shapes: KernelShapes, se: bool) -> Arch | None:
    """Work out the fields of the architecture that may have these shapes."""
    try:
        widths = [stage[0][0] for stage in shapes]
        layers = [shape for stage in shapes for shape in stage]
        groups = max(x[0] // y[1] for x, y in zip(layers, layers[1:]))
        # A width is its multiple rounded down, so the widest stage tells it best.
        widest = min(3, len(widths) - 1)
        a = widths[widest] / (32 << widest)
        b = widths[4] / 512 if len(widths) > 4 else 1
        d2, d3, d4, d5 = [len(stage) for stage in shapes[1:]] + [1] * (5 - len(shapes))
        return Arch((d2, d3, d4, d5), a, b, groups, se)
    except (LookupError, ZeroDivisionError, ConfigError):
        return None


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
    """Return the shapes of an architecture with the image and the stages of others."""
    stages = plan(arch, None, in_channels(shapes))[: len(shapes)]
    return [
        [(layer.out_channels, layer.in_channels // layer.groups, 3, 3) for layer in stage]
        for stage in stages
    ]
