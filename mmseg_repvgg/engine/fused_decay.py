"""Weight decay on the fused kernels of RepVGG blocks in place of their branches."""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ..errors import ConfigError
from ..reparam import RepConv
from ..reparam.algebra import ConvParams, pad_kernel
from ..reparam.branches import DiracConv2d, fold


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FusedDecayConstructor(DefaultOptimWrapperConstructor):
    r"""Constructor of an optimizer whose weight decay acts on fused kernels.

    The kernels :math:`K_i` of a block are decayed together. Each tap of the fused kernel
    adds to the penalty

    .. math:: \left(\sum_i t_i K_i\right)^2 / \sum_i t_i^2

    where :math:`t_i` is the factor by which the norm behind kernel i multiplies a
    channel, and the sums are over the branches that have this tap. Where only one has it,
    this is the plain decay. The factors are constants, and the identity branch is not
    part of the sums. Norms behind a kernel and biases of a block are not decayed; the
    scale of its identity branch is.

    For RepVGG's own block, this is ``get_custom_L2`` and ``set_weight_decay`` of the
    authors' code (https://github.com/DingXiaoH/RepVGG, ``repvgg.py`` and
    ``train/optimizer.py``). The gradient of half the penalty, times the optimizer's
    ``weight_decay``, is added to that of the loss for SGD and to the step for AdamW,
    whose decay is decoupled. Parameters outside of the blocks are decayed as
    ``paramwise_cfg`` says.

    Args:
        optim_wrapper_cfg: Config of an optimizer wrapper with SGD or AdamW.
        paramwise_cfg: As for mmengine's default constructor.

    Raises:
        ConfigError: For another optimizer, or if the model has no blocks in the training
            form or some that cannot be fused or have a ``dirac`` branch.
    """

    def __call__(self, model: nn.Module) -> Any:
        """Build the optimizer wrapper of a model."""
        wrapper: Any = super().__call__(model)
        optimizer = wrapper.optimizer
        if type(optimizer) not in (SGD, AdamW):
            raise ConfigError(
                'FusedDecayConstructor needs the optimizer SGD or AdamW, but got '
                f'{type(optimizer).__name__}'
            )
        blocks = [m for m in model.modules() if isinstance(m, RepConv)]
        if not blocks or not all(map(_has_fused_kernel, blocks)):
            raise ConfigError(
                'FusedDecayConstructor needs a model with blocks in the training form, '
                'whose branches have neither a ReLU nor the layer dirac, but got '
                f'{next((b for b in blocks if not _has_fused_kernel(b)), "no block")}'
            )
        kernels = {kernel for block in blocks for kernel, _ in decay_gradients(block)}
        undecayed: set[Tensor] = {
            parameter
            for block in blocks
            for name, parameter in block.named_parameters()
            if not (name.startswith('branch_identity') and name.endswith('.weight'))
        }
        for group in list(optimizer.param_groups):
            decay = group['weight_decay']
            _split_off(optimizer, group, kernels, fused_decay=decay, weight_decay=0)
            _split_off(optimizer, group, undecayed - kernels, weight_decay=0)
        _decay_before_steps(optimizer, blocks)
        return wrapper


@torch.no_grad()
def decay_gradients(block: RepConv) -> list[tuple[Tensor, Tensor]]:
    """Return each kernel of a block with the gradient of half the penalty.

    Returns:
        Pairs of the same shape, (out_channels, in_channels / groups, height, width).
    """
    found: list[tuple[Tensor, Tensor]] = []
    for name, branch in block.branches.items():
        conv, *later = branch if isinstance(branch, nn.Sequential) else [branch]
        if isinstance(conv, nn.Conv2d):
            ones = conv.weight.new_ones(conv.out_channels, 1, 1, 1)
            params = ConvParams(ones, ones.flatten())
            for layer in later:
                params = fold(name, params, layer)
            found.append((conv.weight, params.kernel.to(ones)))
    size: Any = max(kernel.shape[-2:] for kernel, _ in found)
    fused = sum(pad_kernel(factor * kernel, size) for kernel, factor in found)
    squares = sum(
        pad_kernel((factor**2).expand(-1, -1, *kernel.shape[-2:]), size)
        for kernel, factor in found
    )
    # Padding to a smaller size crops.
    return [
        (kernel, factor * pad_kernel(fused / squares, kernel.shape[-2:]))  # type: ignore[arg-type]
        for kernel, factor in found
    ]


def _has_fused_kernel(block: RepConv) -> bool:
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    return block.is_linear and not any(isinstance(m, DiracConv2d) for m in convs)


def _split_off(
    optimizer: Optimizer,
    group: dict[str, Any],
    parameters: set[Tensor],
    **settings: float,
) -> None:
    """Move some parameters of a group to a new group with other settings."""
    moved = [p for p in group['params'] if p in parameters]
    if moved:
        group['params'] = [p for p in group['params'] if p not in parameters]
        optimizer.add_param_group({**group, 'params': moved, **settings})


def _decay_before_steps(optimizer: Optimizer, blocks: Iterable[RepConv]) -> None:
    decoupled = isinstance(optimizer, AdamW)

    @torch.no_grad()
    def before(*_: Any) -> None:
        groups = {
            kernel: group
            for group in optimizer.param_groups
            if 'fused_decay' in group
            for kernel in group['params']
        }
        for block in blocks:
            for kernel, gradient in decay_gradients(block):
                # Frozen kernels have no gradient.
                if kernel.grad is None:
                    continue
                decay = groups[kernel]['fused_decay']
                if decoupled:
                    kernel.sub_(gradient, alpha=groups[kernel]['lr'] * decay)
                else:
                    kernel.grad.add_(gradient, alpha=decay)

    optimizer.register_step_pre_hook(before)
