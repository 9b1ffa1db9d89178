"""Parameters, multiply-accumulates and Winograd multiplications of a net.

The paper's Tables 2 and 4 (https://arxiv.org/abs/2101.03697) count the multiply-
accumulates of convolutions and fully connected layers; its "Winograd MULs" count a 3x3
convolution of stride 1 at 4/9 of them, as F(2x2, 3x3) needs 16 multiplications where a
direct convolution needs 36, and everything else in full.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

WINOGRAD_SHARE = Fraction(4, 9)


@dataclass(frozen=True)
class Counts:
    """What a forward pass takes.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of convolutions and fully connected layers.
        winograd_muls: Multiplications, with Winograd where a 3x3 conv has stride 1.
    """

    params: int
    macs: int
    winograd_muls: int


@torch.no_grad()
def count(model: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """Count a model by a forward pass on the meta device, which computes nothing.

    Args:
        model: Takes one tensor. It is copied and left as it is.
        input_shape: Of that tensor, such as (1, 3, 224, 224).
    """
    macs = 0
    winograd = Fraction(0)

    def add(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal macs, winograd
        if isinstance(module, nn.Conv2d):
            here = output.numel() * module.weight[0].numel()
            fast = module.kernel_size == (3, 3) and module.stride == (1, 1)
        else:
            here = output.numel() * int(module.in_features)  # type: ignore[arg-type]
            fast = False
        macs += here
        winograd += here * WINOGRAD_SHARE if fast else here

    shadow = copy.deepcopy(model).to('meta').eval()
    for module in shadow.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    shadow(torch.empty(input_shape, device='meta'))
    params = sum(parameter.numel() for parameter in model.parameters())
    return Counts(params, macs, round(winograd))
