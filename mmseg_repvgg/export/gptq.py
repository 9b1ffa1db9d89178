"""Rounding of convolution weights to int8 that compensates for its own errors (GPTQ).

Where the inputs of two weights are alike, one weight can compensate for the rounding of
the other. Weights are therefore rounded one input at a time, and the error of each is
spread over the weights that follow, by the second moments of the inputs (Frantar et al.,
ICLR 2023, https://arxiv.org/abs/2210.17323).

The largest weight of a filter sets its step. In RepVGG that is the weight of the identity
branch, often thirty times as large as the others, so the step is coarse for them.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..reparam import SqueezeExcite, deploy

STEPS = 127
"""Steps from zero to the largest weight of a filter."""
FIRST_STEPS = 63
"""Steps in the first convolution; processors without VNNI would overflow with more."""
# Filters of more inputs, as in the decode head of PSPNet, are rounded to the nearest:
# they have no identity, and the moments of their inputs would take gigabytes.
_MOST_INPUTS = 6000
# Positions of each map from which moments are computed.
_POSITIONS = 512
# Columns of weights that are rounded before the error is spread beyond them.
_COLUMNS = 128
# Share of the mean variance that is added to all variances, as in the paper.
_DAMPING = 0.01


@torch.no_grad()
def round_weights(model: nn.Module, images: Iterable[Tensor]) -> nn.Module:
    """Return a fused copy whose convolutions have weights of 8 bits.

    A weight is a whole multiple of its filter's step: the filter's largest weight over
    127, or over 63 in the first convolution. Squeeze-and-excitation, auxiliary heads and
    convolutions of more than 6,000 inputs to a filter keep their weights.

    Args:
        model: A segmentor of a backbone and one decode head, in any form.
        images: Batches of normalized images, (B, bands, H, W); at least one.
    """
    copied: Any = deploy(model)
    gates = {
        gate
        for module in copied.modules()
        if isinstance(module, SqueezeExcite)
        for gate in module.children()
    }
    moments: dict[nn.Conv2d, Tensor] = {}

    def add(conv: Any, inputs: tuple[Tensor, ...]) -> None:
        moments[conv] = moments.get(conv, 0) + _moments(conv, inputs[0])

    handles = [
        module.register_forward_pre_hook(add)
        for module in copied.modules()
        if type(module) is nn.Conv2d
        and module not in gates
        and module.weight[0].numel() <= _MOST_INPUTS
    ]
    for batch in images:
        copied.decode_head(copied.extract_feat(batch))
    for handle in handles:
        handle.remove()
    for index, (conv, group_moments) in enumerate(moments.items()):
        steps = STEPS if index else FIRST_STEPS
        groups = conv.weight.unflatten(0, (conv.groups, -1)).flatten(2)
        rounded = torch.stack(
            [
                _round(*each, steps)
                for each in zip(groups.double(), group_moments.double())
            ]
        )
        # The copy shares the memory of the model's tensors.
        weight = rounded.view_as(conv.weight).to(conv.weight)
        conv.weight = nn.Parameter(weight, requires_grad=False)
    return copied


def _moments(conv: Any, x: Tensor) -> Tensor:
    """Return the second moments, (groups, n, n), of the n inputs to a filter."""
    patches = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    count = patches.shape[2]
    chosen = torch.linspace(0, count - 1, min(count, _POSITIONS)).long()
    patches = patches[:, :, chosen].unflatten(1, (conv.groups, -1))
    return torch.einsum('bgnp,bgmp->gnm', patches, patches)


def _round(weight: Tensor, moments: Tensor, steps: int) -> Tensor:
    """Round the filters of a group, (filters, n), by the moments of their inputs."""
    sizes, largest = weight.abs().max(1, keepdim=True)
    step = sizes.clamp(min=torch.finfo(torch.float32).tiny) / steps
    # The filter keeps its step only if its largest weight does not change.
    fixed = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, largest, True)
    variances = moments.diagonal()
    if not variances.any():
        return (weight / step).round() * step
    order = variances.argsort(descending=True)
    damped = moments + _DAMPING * variances.mean() * torch.eye(len(moments)).to(moments)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[order][:, order]))
    spread = torch.linalg.cholesky(inverse, upper=True)
    original, weight, fixed = (each[:, order] for each in (weight, weight, fixed))
    rounded = torch.empty_like(weight)
    for start in range(0, weight.shape[1], _COLUMNS):
        block = slice(start, start + _COLUMNS)
        errors = torch.zeros_like(weight[:, block])
        for at in range(start, min(block.stop, weight.shape[1])):
            nearest = (weight[:, at] / step[:, 0]).round().clamp(-steps, steps)
            rounded[:, at] = torch.where(
                fixed[:, at], original[:, at], nearest * step[:, 0]
            )
            error = (weight[:, at] - rounded[:, at]) / spread[at, at]
            weight[:, at : block.stop] -= error[:, None] * spread[at, at : block.stop]
            errors[:, at - start] = error
        weight[:, block.stop :] -= errors @ spread[block, block.stop :]
    return rounded[:, order.argsort()]
