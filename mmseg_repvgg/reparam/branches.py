"""The branches of a block: how they are built, and the convolution that each equals."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .algebra import (
    ConvParams,
    dirac_kernel,
    fold_batch_norm,
    identity_kernel,
    scale_channels,
    to_float64,
)
from .formulas import KERNELS, Formula
from .recomputing import RecomputedConv

NormFactory = Callable[[int], nn.Module]


def build_conv(
    kernel: tuple[int, int],
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    *,
    bias: bool = False,
    kind: type[nn.Conv2d] = nn.Conv2d,
) -> nn.Conv2d:
    """Build a convolution whose padding keeps the size at stride 1.

    An axis on which the kernel has size 1 has neither padding nor dilation.
    """
    rates = tuple(dilation if size > 1 else 1 for size in kernel)
    return kind(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=tuple(size // 2 * rate for size, rate in zip(kernel, rates)),  # type: ignore[arg-type]
        dilation=rates,  # type: ignore[arg-type]
        groups=groups,
        bias=bias,
    )


class DiracConv2d(nn.Conv2d):
    r"""A convolution with the kernel :math:`diag(a) I + diag(b) W / |W|`.

    ``I`` passes the input through and ``|W|`` is the norm of each filter. ``a`` begins as
    1 and ``b`` as 0.1 (Zagoruyko and Komodakis, DiracNets, section 3,
    https://arxiv.org/abs/1706.00388).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = nn.Parameter(torch.ones(self.out_channels))
        self.beta = nn.Parameter(torch.full((self.out_channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (B, in_channels, H, W)."""
        kernel = dirac_kernel(self.weight, self.alpha, self.beta, self.groups)
        return self._conv_forward(x, kernel, self.bias)


class ChannelScale(nn.Module):
    """A factor per channel, ``weight`` of shape (channels,), which begins as 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x``, shape (B, channels, H, W)."""
        return x * self.weight.view(-1, 1, 1)


def build_branches(
    formula: Formula,
    in_channels: int,
    out_channels: int,
    stride: int,
    dilation: int,
    groups: int,
    *,
    norm: NormFactory,
    identity: bool,
    recompute_1x1: bool,
) -> Iterator[tuple[str, nn.Module]]:
    """Build the branches of a formula, each with its name.

    A branch of one layer is that layer; otherwise it is an ``nn.Sequential`` whose layers
    are named ``conv``, ``bn``, ``scale`` and ``relu``. Without ``identity``, identity
    branches are left out. With ``recompute_1x1``, a 1x1 conv and the layers behind it are
    a :class:`RecomputedConv`.
    """
    later: dict[str, Callable[[], nn.Module]] = {
        'bn': lambda: norm(out_channels),
        'scale': lambda: ChannelScale(out_channels),
        'relu': nn.ReLU,
    }
    names: Counter[str] = Counter()
    for first, *others in formula.branches:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if first in KERNELS:
            layers['conv'] = build_conv(
                KERNELS[first],
                in_channels,
                out_channels,
                stride,
                dilation,
                groups,
                kind=DiracConv2d if first == 'dirac' else nn.Conv2d,
            )
        elif not identity:
            continue
        layers.update((name, later[name]()) for name in others)
        names[first] += 1
        number = f'_{names[first]}' if names[first] > 1 else ''
        sequence = RecomputedConv if recompute_1x1 and first == '1x1' else nn.Sequential
        only, *more = layers.values() or [nn.Identity()]
        yield f'branch_{first}{number}', sequence(layers) if more else only


def as_conv(name: str, branch: nn.Module, like: nn.Conv2d) -> ConvParams:
    """Convert a branch to the convolution that it equals in evaluation mode.

    Args:
        name: The name of the branch.
        branch: A layer or an ``nn.Sequential`` of layers.
        like: The conv that gives the geometry.

    Returns:
        Kernel and bias, float64.

    Raises:
        ValueError: If a layer has another type, whose forward may compute anything.
    """
    layers = [(name, branch)]
    if type(branch) in (nn.Sequential, RecomputedConv):
        layers = [(f'{name}.{part}', layer) for part, layer in branch.named_children()]
    (where, first), *later = layers
    if type(first) in (nn.Conv2d, DiracConv2d):
        params = _conv_params(where, first, like)
    else:
        kernel = identity_kernel(like.in_channels, like.groups).to(like.weight.device)
        params = ConvParams(kernel, kernel.new_zeros(like.out_channels))
        later = layers
    for where, layer in later:
        params = fold(where, params, layer)
    return params


def fold(name: str, params: ConvParams, layer: Any) -> ConvParams:
    """Fold a layer that acts on each channel alone into the convolution before it.

    Raises:
        ValueError: If the layer is neither a batch norm with running statistics, a scale
            nor an identity.
    """
    if type(layer) is nn.Identity:
        return params
    if type(layer) is ChannelScale:
        return scale_channels(params, layer.weight)
    if type(layer).forward not in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward):
        raise ValueError(
            f'cannot fuse {name}: it must be a batch norm, a scale, an identity or, at '
            f'the beginning of a branch, a plain nn.Conv2d, but got {layer}. Merge '
            'adapters such as LoRA first'
        )
    if layer.running_mean is None:
        raise ValueError(
            f'cannot fuse {layer}: it keeps no running statistics, so evaluation '
            'normalizes with those of the batch. Use a batch norm that tracks them'
        )
    return fold_batch_norm(
        params, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps
    )


def _conv_params(name: str, conv: Any, like: nn.Conv2d) -> ConvParams:
    if not _can_add(conv, like):
        raise ValueError(
            f'cannot fuse {name}: its stride, groups, dilation and padding must fit '
            f'those of {like}, but got {conv}'
        )
    kernel = to_float64(conv.weight)
    if isinstance(conv, DiracConv2d):
        alpha, beta = to_float64(conv.alpha), to_float64(conv.beta)
        kernel = dirac_kernel(kernel, alpha, beta, conv.groups)
    bias = kernel.new_zeros(len(kernel)) if conv.bias is None else conv.bias
    return ConvParams(kernel, to_float64(bias))


def _can_add(conv: nn.Conv2d, like: nn.Conv2d) -> bool:
    """Return whether a conv's kernel can be added to that of another one."""
    names = ['stride', 'groups']
    if conv.kernel_size != (1, 1):
        names.append('padding_mode')
    axes = [
        [(c.kernel_size[axis], c.padding[axis], c.dilation[axis]) for c in (conv, like)]
        for axis in (0, 1)
    ]
    # A size of 1 without padding reads the centre, whatever the dilation.
    return all(getattr(conv, name) == getattr(like, name) for name in names) and all(
        own[:2] == (1, 0) or own == other for own, other in axes
    )
