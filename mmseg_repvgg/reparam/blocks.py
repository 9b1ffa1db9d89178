"""The RepVGG block: the type of the module in its ``conv`` slot is its form.

In training the slot holds a multi-branch :class:`RepConv`; deployed, the plain
``nn.Conv2d`` that :meth:`RepConv.fuse` returns. Nothing else in the block depends on the
form (Ding et al., CVPR 2021, section 3.3, https://arxiv.org/abs/2101.03697).
"""

from copy import copy
from inspect import getattr_static
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .algebra import ConvParams, add_parallel
from .branches import NormFactory, as_conv, build_branches, fold
from .formulas import parse


class RepConv(nn.Module):
    r"""The branches that a block trains in place of one convolution.

    By default, those of RepVGG:

    .. math:: y = BN(conv_{3 \times 3}(x)) + BN(conv_{1 \times 1}(x)) + BN(x)

    The branches are the child modules, so forward and fusion always use the same ones.
    The child ``bn``, which is no branch, follows the sum; it is an identity in blocks
    without such a norm. Dilation affects only axes on which a kernel has more than one
    tap.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the convolutions.
        dilation: Dilation of the convolutions.
        groups: Groups of the convolutions.
        identity: Whether to add the identity branch. The geometry does not tell: where
            dilation has replaced a stride of 2, a checkpoint has no identity branch.
        norm: Builds a batch norm for a number of channels.
        block: A name in ``BLOCKS`` or a formula, see ``reparam/formulas.py``.
        recompute_1x1: Whether the backward pass recomputes 1x1 convs, to save memory.

    Raises:
        ConfigError: If ``block`` is unknown.
        ValueError: If ``identity`` is set but input and output differ in shape.
    """

    bn: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        *,
        identity: bool = False,
        norm: NormFactory = nn.BatchNorm2d,
        block: str = 'repvgg',
        recompute_1x1: bool = False,
    ) -> None:
        super().__init__()
        if identity and (in_channels != out_channels or stride != 1):
            raise ValueError(
                'an identity branch needs as many output as input channels and stride '
                f'1, but got {in_channels} -> {out_channels} channels, stride {stride}'
            )
        formula = parse(block)
        branches = build_branches(
            formula,
            in_channels,
            out_channels,
            stride,
            dilation,
            groups,
            norm=norm,
            identity=identity,
            recompute_1x1=recompute_1x1,
        )
        for name, branch in branches:
            self.add_module(name, branch)
        self.bn = norm(out_channels) if formula.norm else nn.Identity()

    @property
    def branches(self) -> dict[str, nn.Module]:
        """The branches by name."""
        return {name: child for name, child in self.named_children() if name != 'bn'}

    @property
    def is_linear(self) -> bool:
        """Whether no branch has a ReLU, so that one convolution can replace them."""
        return not any(isinstance(module, nn.ReLU) for module in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches, normalized by ``bn``.

        Args:
            x: Shape (B, in_channels, H, W).

        Returns:
            Shape (B, out_channels, ceil(H / stride), ceil(W / stride)).
        """
        first, *others = self.branches.values()
        y = first(x)
        for number, branch in enumerate(others):
            # Only a sum may be overwritten: the first output may be x itself.
            y = y.add_(branch(x)) if number else y + branch(x)
        return self.bn(y)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Return one convolution that equals the branches in evaluation mode.

        The weights are computed in float64 from the running statistics and cast to the
        dtype of the branches. This module is not changed and no random numbers are drawn.

        Returns:
            An ``nn.Conv2d`` with bias and the geometry of the largest conv, on the same
            device, without gradients.

        Raises:
            ValueError: If a branch has other layers than convs, batch norms with running
                statistics and scales, or if hooks or replaced methods change its output.
        """
        kind = type(self)
        if kind.forward is not RepConv.forward and kind.fuse is RepConv.fuse:
            raise ValueError(
                f'cannot fuse {kind.__name__}: it overrides forward but not fuse'
            )
        convs = (m for m in self.modules() if isinstance(m, nn.Conv2d))
        like = max(convs, key=lambda conv: conv.kernel_size)
        params = add_parallel(
            as_conv(name, branch, like) for name, branch in self.branches.items()
        )
        params = fold('bn', params, self.bn)
        x = like.weight.new_ones(1, like.out_channels, 1, 1)
        for name, module in self.named_modules():
            # The last forward pass has left a plain attribute in place of a parameter.
            if module._forward_pre_hooks and {'weight', 'bias'} & vars(module).keys():
                why = (
                    'a forward pre-hook computes its weights, as pruning and the older '
                    'weight norm do. Make that permanent first '
                    '(torch.nn.utils.prune.remove, remove_weight_norm)'
                )
            elif hidden := hidden_methods(module):
                why = f'its {hidden[0]} was replaced on the instance. Undo that first'
            # deploy moves the hooks of this module itself to the conv.
            elif module is not self and _hooks_alter(module, x):
                why = 'a forward hook changes its input or output. Remove the hook first'
            else:
                continue
            raise ValueError(f'cannot fuse {name or kind.__name__}: {why}')
        return conv_like(like, params)


def conv_like(like: nn.Conv2d, params: ConvParams) -> nn.Conv2d:
    """Build a conv with given kernel and bias and the geometry of another one.

    Args:
        like: The conv that gives stride, padding, dilation, groups, dtype and device.
        params: Kernel and bias.

    Returns:
        The conv in evaluation mode, without gradients.
    """
    # The meta device draws no initial weights, which would change the random state.
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        stride=like.stride,  # type: ignore[arg-type]
        padding=like.padding,  # type: ignore[arg-type]
        dilation=like.dilation,  # type: ignore[arg-type]
        groups=like.groups,
        padding_mode=like.padding_mode,
        device='meta',
    )
    conv.weight = nn.Parameter(params.kernel.to(like.weight), requires_grad=False)
    conv.bias = nn.Parameter(params.bias.to(like.weight), requires_grad=False)
    return conv.eval()


def hidden_methods(module: nn.Module) -> list[str]:
    """Return the names of methods that attributes of the instance replace."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and isinstance(getattr_static(type(module), name, None), FunctionType)
    ]


def _hooks_alter(module: nn.Module, x: Tensor) -> bool:
    """Return whether forward hooks change the input or output of a module.

    Each hook is called once, with ``x``, since nothing else shows it.
    """
    if not (module._forward_hooks or module._forward_pre_hooks):
        return False
    passing: Any = copy(module)
    passing.forward = lambda x: x
    before = x.clone()
    return passing(x) is not x or not torch.equal(x, before)


REDUCTION = 16
"""Reduction ratio of squeeze-and-excitation in D2se."""


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation on (B, C, H, W) maps, as D2se uses it.

    Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        neurons = max(1, channels // REDUCTION)
        self.down = nn.Conv2d(channels, neurons, 1)
        self.up = nn.Conv2d(neurons, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel of ``x``, shape (B, C, H, W), by its gate."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.up(self.down(pooled).relu()).sigmoid()


class RepVGGBlock(nn.Module):
    """A 3x3 conv slot, optional squeeze-and-excitation, and a ReLU.

    SE comes after the sum of the branches and before the activation. It is not fused.

    Args:
        conv: The module in the slot: :class:`RepConv`, ``nn.Conv2d``, or any module that
            maps (B, in_channels, H, W) to (B, out_channels, H', W').
        se: Squeeze-and-excitation, or None.
    """

    def __init__(self, conv: nn.Module, se: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.se = nn.Identity() if se is None else se
        self.act: nn.Module = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H', W')."""
        return self.act(self.se(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two blocks and a shortcut, as in ResNet-18.

    This is the residual reorganization of RepVGG's Table 7. The second block's ReLU moves
    behind the addition.

    Args:
        first: A block that maps (B, in_channels, H, W) to (B, out_channels, H', W').
        second: A block that keeps that shape.
        shortcut: Maps the input to the same shape: an identity, or a 1x1 convolution in
            any form.
    """

    def __init__(
        self, first: RepVGGBlock, second: RepVGGBlock, shortcut: nn.Module
    ) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = first, second, shortcut
        self.act, second.act = second.act, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H', W')."""
        return self.act(self.second(self.first(x)) + self.shortcut(x))
