"""Count parameters, multiply-accumulates, Winograd multiplications and activations.

torch's own counter counts on the meta device, which computes shapes only. The rule of the
paper's "Winograd MULs" is added here (Ding et al., CVPR 2021, Tables 2 and 4,
https://arxiv.org/abs/2101.03697): a 3x3 convolution of stride 1 counts as 4/9 of its
multiply-accumulates, since F(2x2, 3x3) needs 16 multiplications where a direct
convolution needs 36, and everything else counts in full. ``docs/counting.md`` compares
counters.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

_aten = torch.ops.aten
# Convolutions, linear layers and matrix products all dispatch to these.
_PRODUCTS = (_aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm)


@dataclass(frozen=True)
class Counts:
    """The size of a network and the cost of a forward pass.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of convolutions, linear layers and matrix products.
        winograd_muls: Multiplications of these, with Winograd where a 3x3 convolution has
            stride 1, whatever its dilation and groups.
        activations: Elements of the outputs of convolutions, linear layers and matrix
            products.
    """

    params: int
    macs: int
    winograd_muls: int
    activations: int


@torch.no_grad()
def count(model: nn.Module, input_shape: Sequence[int]) -> Counts:
    """Count a model in evaluation mode by a forward pass on the meta device.

    As in the paper, norms, activation functions, pooling and resizing count for their
    parameters only.

    Args:
        model: Takes one tensor. It is not changed.
        input_shape: Shape of the tensor, such as (1, 3, 224, 224).
    """
    shadow = copy.deepcopy(model).to('meta')
    # Not chained, since mmseg's ResNet.eval() returns None.
    shadow.eval()
    macs = FlopCounterMode(display=False)
    winograd = FlopCounterMode(
        display=False, custom_mapping={_aten.convolution: _winograd_flops}
    )
    outputs = FlopCounterMode(
        display=False, custom_mapping=dict.fromkeys(_PRODUCTS, _elements)
    )
    with macs, winograd, outputs:
        shadow(torch.empty(tuple(input_shape), device='meta'))
    elements = outputs.get_flop_counts().get('Global', {})
    return Counts(
        sum(parameter.numel() for parameter in model.parameters()),
        # One multiply-accumulate is two floating-point operations.
        macs.get_total_flops() // 2,
        winograd.get_total_flops() // 2,
        sum(elements.get(product, 0) for product in _PRODUCTS),
    )


def _winograd_flops(
    x: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    stride: Sequence[int],
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    *_: Any,
    out_shape: Any,
) -> int:
    """Return the FLOPs of a convolution from the shapes that torch's counter gives."""
    flops = conv_flop_count(x, weight, out_shape, transposed=transposed)  # type: ignore[arg-type]
    fast = tuple(weight[2:]) == (3, 3) and tuple(stride) == (1, 1) and not transposed
    return flops * 4 // 9 if fast else flops


def _elements(*_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return prod(out_shape)
