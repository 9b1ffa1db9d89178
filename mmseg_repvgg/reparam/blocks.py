"""The RepVGG block: one ``conv`` slot, and the type of what sits in it is the state.

In training the slot holds a multi-branch :class:`RepConv`; deployed, the plain
``nn.Conv2d`` that :meth:`RepConv.fuse` returns. Nothing else of the block knows
(Ding et al., CVPR 2021, section 3.3, https://arxiv.org/abs/2101.03697).
"""

from collections.abc import Callable
from copy import copy
from inspect import getattr_static
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .algebra import ConvParams, add_parallel, fold_batch_norm, identity_kernel

NormFactory = Callable[[int], nn.Module]


def conv3x3(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Build the 3x3 convolution of a block; its padding keeps the size at stride 1."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )


class ConvBN(nn.Sequential):
    """A convolution without bias and its batch norm, as ``conv`` and ``bn``."""

    conv: nn.Conv2d
    bn: nn.Module

    def __init__(self, conv: nn.Conv2d, norm: NormFactory) -> None:
        super().__init__()
        self.conv = conv
        self.bn = norm(conv.out_channels)


class RepConv(nn.Module):
    r"""A 3x3 convolution with the parallel branches that RepVGG trains.

    .. math:: y = BN(conv_{3 \times 3}(x)) + BN(conv_{1 \times 1}(x)) + BN(x)

    The branches are the child modules, so forward and fusion always use the same ones.
    Dilation affects the 3x3 branch only.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the convolutions.
        dilation: Dilation and padding of the 3x3 conv.
        groups: Groups of both convs.
        identity: Whether to add an identity branch. The geometry does not tell: where
            dilation has replaced a stride of 2, a checkpoint has no identity branch.
        norm: Builds a batch norm for a number of channels.

    Raises:
        ValueError: If ``identity`` is set but input and output differ in shape.
    """

    branch_3x3: ConvBN
    branch_1x1: ConvBN
    branch_identity: nn.Module

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
    ) -> None:
        super().__init__()
        if identity and (in_channels != out_channels or stride != 1):
            raise ValueError(
                'an identity branch needs as many output as input channels and stride '
                f'1, but got {in_channels} -> {out_channels} channels, stride {stride}'
            )
        self.branch_3x3 = ConvBN(
            conv3x3(in_channels, out_channels, stride, dilation, groups), norm
        )
        self.branch_1x1 = ConvBN(
            nn.Conv2d(in_channels, out_channels, 1, stride, groups=groups, bias=False),
            norm,
        )
        if identity:
            self.branch_identity = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches.

        Args:
            x: Shape (B, in_channels, H, W).

        Returns:
            Shape (B, out_channels, ceil(H / stride), ceil(W / stride)).
        """
        first, *others = self.children()
        y = first(x)
        for branch in others:
            y = y + branch(x)
        return y

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Return one convolution that equals the branches in evaluation mode.

        The weights are computed in float64 from the running statistics and cast to the
        dtype of the 3x3 conv. This module is not changed and no random numbers are drawn.

        Returns:
            A 3x3 ``nn.Conv2d`` with bias, on the same device, without gradients.

        Raises:
            ValueError: If a branch is not a plain conv and a batch norm with running
                statistics, or if hooks or replaced methods change its output.
        """
        kind = type(self)
        if kind.forward is not RepConv.forward and kind.fuse is RepConv.fuse:
            raise ValueError(
                f'cannot fuse {kind.__name__}: it overrides forward but not fuse'
            )
        live = self.branch_3x3.conv
        params = add_parallel(
            _as_conv(name, branch, live) for name, branch in self.named_children()
        )
        x = live.weight.new_ones(1, live.out_channels, 1, 1)
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
        return conv_like(live, params)


def conv_like(live: nn.Conv2d, params: ConvParams) -> nn.Conv2d:
    """Build a conv with given kernel and bias and the geometry of another one.

    Args:
        live: The conv that gives stride, padding, dilation, groups, dtype and device.
        params: Kernel and bias.

    Returns:
        The conv in evaluation mode, without gradients.
    """
    # The meta device draws no initial weights, which would change the random state.
    conv = nn.Conv2d(
        live.in_channels,
        live.out_channels,
        live.kernel_size,  # type: ignore[arg-type]
        stride=live.stride,  # type: ignore[arg-type]
        padding=live.padding,  # type: ignore[arg-type]
        dilation=live.dilation,  # type: ignore[arg-type]
        groups=live.groups,
        padding_mode=live.padding_mode,
        device='meta',
    )
    conv.weight = nn.Parameter(params.kernel.to(live.weight), requires_grad=False)
    conv.bias = nn.Parameter(params.bias.to(live.weight), requires_grad=False)
    return conv.eval()


def _as_conv(name: str, branch: nn.Module, live: nn.Conv2d) -> ConvParams:
    """Convert a branch, a ConvBN or the norm of the identity, to one convolution.

    Raises:
        ValueError: If the branch has another type, whose forward may compute anything.
    """
    norm: Any
    if type(branch) is ConvBN and list(branch._modules) == ['conv', 'bn']:
        conv, norm = branch.conv, branch.bn
        if type(conv) is not nn.Conv2d or not _can_add(conv, live):
            raise ValueError(
                f'cannot fuse {name}.conv: it must be an nn.Conv2d, 1x1 or like that of '
                f'branch_3x3, but got {conv}. Merge adapters such as LoRA first'
            )
        kernel, bias = conv.weight, conv.bias
    else:
        norm = branch
        kernel, bias = identity_kernel(live.in_channels, live.groups), None
    if type(norm).forward not in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward):
        raise ValueError(
            f'cannot fuse {name}: it must be a ConvBN or a batch norm, but got {branch}'
        )
    mean = norm.running_mean
    if mean is None:
        raise ValueError(
            f'cannot fuse {norm}: it keeps no running statistics, so evaluation '
            'normalizes with those of the batch. Use a batch norm that tracks them'
        )
    if bias is None:
        bias = torch.zeros_like(mean)
    return fold_batch_norm(
        ConvParams(kernel.to(mean.device), bias),
        mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.eps,
    )


def _can_add(conv: nn.Conv2d, live: nn.Conv2d) -> bool:
    """Return whether a conv's kernel can be added to that of the 3x3 conv."""
    if conv.kernel_size == (1, 1) and conv.padding == (0, 0):
        names = ['stride', 'groups']
    else:
        names = ['stride', 'groups', 'kernel_size', 'padding', 'dilation', 'padding_mode']
    return all(getattr(conv, name) == getattr(live, name) for name in names)


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


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation on (B, C, H, W) maps, as D2se uses it.

    Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507.

    Args:
        channels: Channels of the map.
        reduction: Channels per neuron of the bottleneck.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        neurons = max(1, channels // reduction)
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
