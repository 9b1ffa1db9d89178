"""Telling which RepVGG a backbone's tensors are of, by their shapes.

Backbones come by our own key names, without prefix, in either form. The last stages may
be missing, as ``out_indices`` leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..checkpoints.key_names import kernels_3x3
from ..errors import ConfigError
from .archs import ARCHS, Arch, get_arch, plan

KernelShapes = dict[tuple[int, int], tuple[int, ...]]
"""Of the 3x3 kernel, by (stage, block), the stem being (0, 0)."""


def infer_name(backbone: Mapping[str, Tensor]) -> str | None:
    """Tell the name of a backbone's architecture.

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
        What has these shapes; of stages that are missing it says nothing. None if no
        RepVGG has them.
    """
    shapes = kernel_shapes(backbone)
    if not shapes or any(len(s) != 4 or min(s) < 1 for s in shapes.values()):
        return None
    depths = [max(1, sum(stage == s for stage, _ in shapes)) for s in range(1, 5)]
    widths = {stage: shape[0] for (stage, _), shape in shapes.items()}
    # A width is its multiple rounded down, so the widest tells the multiplier best.
    a = next((widths[s] / (32 << s) for s in (3, 2, 1) if s in widths), 1)
    b = widths.get(4, 512) / 512
    layers = list(shapes.values())
    groups = max((x[0] // y[1] for x, y in zip(layers, layers[1:])), default=1)
    try:
        arch = get_arch(dict(depths=depths, a=a, b=b, groups=groups, se=has_se(backbone)))
    except ConfigError:
        return None
    return arch if shapes == _planned(arch, shapes) else None


def kernel_shapes(backbone: Mapping[str, Tensor]) -> KernelShapes:
    """Collect the shapes of the 3x3 kernels."""
    return {where: tuple(k.shape) for where, k in kernels_3x3(backbone).items()}


def has_se(backbone: Mapping[str, Tensor]) -> bool:
    """Tell whether there is squeeze-and-excitation."""
    return any('.se.' in key for key in backbone)


def in_channels(shapes: KernelShapes) -> int:
    """Tell the channels of the image, 3 if the shapes don't."""
    stem = shapes.get((0, 0), ())
    return stem[1] if len(stem) == 4 and stem[1] else 3


def _planned(arch: Arch, like: KernelShapes) -> KernelShapes:
    """Lay out an architecture's shapes, with the input and the stages of ``like``."""
    last = max(stage for stage, _ in like)
    return {
        (stage, block): (layer.out_channels, layer.in_channels // layer.groups, 3, 3)
        for stage, layers in enumerate(plan(arch, None, in_channels(like))[: last + 1])
        for block, layer in enumerate(layers)
    }
