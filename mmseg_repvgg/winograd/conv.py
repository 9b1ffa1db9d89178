"""3x3 convolutions by Winograd's algorithm, for inference on a CPU.

By F(4x4, 3x3) a tile of 4x4 outputs takes 36 multiplications per input channel, where a
direct convolution takes 144 (Lavin and Gray, CVPR 2016,
https://arxiv.org/abs/1509.09308). A convolution of dilation d is d x d independent
ordinary ones, each on every d-th pixel, so dilation costs nothing.

The arithmetic is in ``winograd.cpp``. It is the PyTorch operator
``mmseg_repvgg::winograd_conv2d``, which ``torch.compile`` and ``torch.export`` know.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repvgg_runtime.kernels.build import library

PRECISIONS = {'highest': 0, 'high': 2, 'medium': 1}
"""Number of bfloat16 numbers for each float32 number in the products; 0 is float32.

Without matrix units all products are in float32, and any other than 0 allows F(6x6, 3x3).

The names are those of :func:`torch.set_float32_matmul_precision`.
"""

PIECE = 16
"""Output channels whose kernels are adjacent in memory, as in ``winograd.cpp``."""


def fits(module: nn.Module) -> bool:
    """Return whether a module is a convolution that Winograd's algorithm can compute."""
    return (
        type(module) is nn.Conv2d
        and not {'forward', '_conv_forward'} & vars(module).keys()
        # Hooks would be lost with the module.
        and not (module._forward_hooks or module._forward_pre_hooks)
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.dilation[0] == module.dilation[1]
        and module.padding == module.dilation
        and module.padding_mode == 'zeros'
    )


def pack(weight: Tensor, groups: int) -> Tensor:
    """Reorder kernels so that ``winograd.cpp`` reads them from start to end.

    Args:
        weight: Shape (out_channels, in_channels / groups, 3, 3).
        groups: Number of groups of the channels.

    Returns:
        The same weights in one dimension. Each piece of up to ``PIECE`` output channels
        of a group is (in_channels / groups, 3, 3, channels of the piece).
    """
    return torch.cat(
        [
            piece.permute(1, 2, 3, 0).flatten()
            for group in weight.chunk(groups)
            for piece in group.split(PIECE)
        ]
    )


def unpack(packed: Tensor, out_channels: int, groups: int) -> Tensor:
    """Invert :func:`pack`.

    Args:
        packed: Shape (out_channels * in_channels / groups * 9,).
        out_channels: Number of output channels of all groups.
        groups: Number of groups of the channels.

    Returns:
        Shape (out_channels, in_channels / groups, 3, 3).
    """
    per_channel = packed.numel() // out_channels
    channels = out_channels // groups
    sizes = [min(PIECE, channels - first) for first in range(0, channels, PIECE)] * groups
    pieces = packed.split([size * per_channel for size in sizes])
    return torch.cat(
        [
            piece.view(-1, 3, 3, size).permute(3, 0, 1, 2)
            for piece, size in zip(pieces, sizes)
        ]
    )


# Not torch.library.custom_op, which needs torch 2.4.
_OPERATORS = torch.library.Library('mmseg_repvgg', 'DEF')
_OPERATORS.define(
    'winograd_conv2d(Tensor x, Tensor packed, Tensor? bias, int out_channels, '
    'int dilation, int groups, bool relu, str precision) -> Tensor'
)


def _directly(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    out_channels: int,
    dilation: int,
    groups: int,
    relu: bool,
    precision: str,
) -> Tensor:
    """Compute what the operator does by PyTorch's own convolution."""
    weight = unpack(packed, out_channels, groups)
    y = F.conv2d(x, weight, bias, padding=dilation, dilation=dilation, groups=groups)
    return y.relu() if relu else y


def _on_cpu(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    out_channels: int,
    dilation: int,
    groups: int,
    relu: bool,
    precision: str,
) -> Tensor:
    n, channels, height, width = x.shape
    # winograd.cpp trusts these sizes.
    if packed.numel() != out_channels * (channels // groups) * 9:
        raise RuntimeError(
            f'{packed.numel()} weights do not make a 3x3 convolution from {channels} to '
            f'{out_channels} channels in {groups} groups'
        )
    if bias is not None and bias.shape != (out_channels,):
        raise RuntimeError(
            f'bias must have shape ({out_channels},), but got {tuple(bias.shape)}'
        )
    if any(t is not None and t.dtype != torch.float32 for t in (x, packed, bias)):
        raise RuntimeError('a Winograd convolution needs float32 input, weights and bias')
    compiled = library()
    if compiled is None:
        y = _directly(x, packed, bias, out_channels, dilation, groups, relu, precision)
        return y.contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    y = x.new_empty((n, height, width, out_channels))
    failed = compiled.winograd_conv(
        x.data_ptr(),
        packed.data_ptr(),
        None if bias is None else bias.contiguous().data_ptr(),
        y.data_ptr(),
        n,
        height,
        width,
        channels,
        out_channels,
        groups,
        dilation,
        relu,
        PRECISIONS[precision],
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError('not enough memory for the tiles of a Winograd convolution')
    return y.permute(0, 3, 1, 2)


def _on_meta(x: Tensor, packed: Tensor, bias: Any, out_channels: int, *_: Any) -> Tensor:
    n, height, width = x.shape[0], *x.shape[2:]
    return x.new_empty((n, height, width, out_channels)).permute(0, 3, 1, 2)


_OPERATORS.impl('winograd_conv2d', _on_cpu, 'CPU')
# For fake tensors, by which torch.compile and torch.export learn the shape.
_OPERATORS.impl('winograd_conv2d', _on_meta, 'Meta')
# In low precision the transforms would cost more digits than there are.
_OPERATORS.impl('winograd_conv2d', _directly, 'AutocastCPU')


class WinogradConv2d(nn.Module):
    """A 3x3 convolution of stride 1 by Winograd's algorithm, for inference on a CPU.

    It computes what the ``nn.Conv2d`` does that it is made from, and its state dict is
    the same: each loads what the other has saved. Other inputs than float32 on a CPU are
    convolved by PyTorch.

    Args:
        conv: A 3x3 convolution of stride 1, padded by its dilation, whose weights are
            copied; or a ``WinogradConv2d``, whose weights are shared.
        precision: How the products are computed on a CPU with matrix units for bfloat16
            (AMX): ``'highest'``, in float32; ``'high'``, with two bfloat16 numbers for
            each float32 number; ``'medium'``, in bfloat16. Transforms and sums are in
            float32. Any other CPU computes the products in float32, and ``'high'`` and
            ``'medium'`` by F(6x6, 3x3) where it is faster, which is less exact.

    Raises:
        ValueError: If Winograd's algorithm cannot compute the convolution, or there is no
            such precision.
    """

    relu = False
    in_channels: int
    out_channels: int
    dilation: tuple[int, ...]
    groups: int
    packed: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, conv: 'nn.Conv2d | WinogradConv2d', precision: str = 'highest'
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(
                f'precision must be one of {tuple(PRECISIONS)}, but got {precision!r}'
            )
        if not isinstance(conv, WinogradConv2d) and not fits(conv):
            raise ValueError(
                'Winograd needs a 3x3 nn.Conv2d of stride 1 with padding equal to '
                f'dilation, but got {conv}'
            )
        self.in_channels = conv.in_channels
        self.out_channels = conv.out_channels
        self.dilation = conv.dilation
        self.groups = conv.groups
        self.precision = precision
        if isinstance(conv, WinogradConv2d):
            self.packed, self.bias = conv.packed, conv.bias
        else:
            self.packed = _constant(pack(conv.weight, conv.groups))
            self.bias = None if conv.bias is None else _constant(conv.bias.clone())
        self.eval()

    @property
    def weight(self) -> Tensor:
        """A copy of the kernels, (out_channels, in_channels / groups, 3, 3)."""
        return unpack(self.packed, self.out_channels, self.groups)

    def plain(self) -> nn.Conv2d:
        """Return the convolution as an ``nn.Conv2d`` with a copy of the weights."""
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            3,
            padding=self.dilation,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            bias=self.bias is not None,
            device='meta',
        )
        conv.weight = _constant(self.weight)
        conv.bias = None if self.bias is None else _constant(self.bias.clone())
        return conv.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: Shape (N, in_channels, H, W), fastest in ``channels_last``.

        Returns:
            Shape (N, out_channels, H, W), in ``channels_last``.

        Raises:
            RuntimeError: If a gradient is required.
        """
        if torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        ):
            raise RuntimeError(
                'WinogradConv2d is for inference and has no gradient: run it under '
                'torch.no_grad(), and train the model that was deployed from'
            )
        by_winograd = (
            x.device.type == 'cpu'
            and x.dtype == self.packed.dtype == torch.float32
            and x.dim() == 4
            and x.shape[1] == self.in_channels
            and x.numel() > 0
        )
        compute = torch.ops.mmseg_repvgg.winograd_conv2d if by_winograd else _directly
        return compute(
            x,
            self.packed,
            self.bias,
            self.out_channels,
            self.dilation[0],
            self.groups,
            self.relu,
            self.precision,
        )

    def extra_repr(self) -> str:
        """Describe the convolution."""
        return (
            f'{self.in_channels}, {self.out_channels}, dilation={self.dilation}, '
            f'groups={self.groups}, bias={self.bias is not None}, '
            f'precision={self.precision}'
        )

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + 'weight'] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + 'packed']

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        # An nn.Conv2d loads, so that its messages name what does not fit.
        plain = self.plain()
        plain._load_from_state_dict(state_dict, prefix, *args)
        self.packed = _constant(pack(plain.weight, self.groups))
        self.bias = None if plain.bias is None else _constant(plain.bias)


class WinogradConvReLU2d(WinogradConv2d):
    """A :class:`WinogradConv2d` and the ReLU after it, in one pass over the output."""

    relu = True


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)
