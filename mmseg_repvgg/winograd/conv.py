"""3x3 convolutions by Winograd's algorithm F(4x4, 3x3), for inference on a CPU.

A tile of 4x4 outputs takes 36 multiplications an input channel where a direct
convolution takes 144 (Lavin and Gray, CVPR 2016, https://arxiv.org/abs/1509.09308). A
convolution of dilation d is d x d independent ordinary ones, each on every d-th pixel, so
that dilation costs nothing.

``winograd.cpp`` is the fast form, built by the machine's own compiler when it is first
needed. :func:`winograd_conv2d` in plain torch is the slow one, which works wherever torch
does, and the reference that the fast one is tested against.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .build import library

try:
    from torch.compiler import is_compiling
except ImportError:  # torch 2.2 and older
    from torch._dynamo import is_compiling

TILE = 4
SIDE = TILE + 2
# Points of interpolation 0, a, -a, b, -b and infinity; as in winograd.cpp.
POINTS = (0.625, 1.5)
# Output channels of which kernels lie together in memory; as in winograd.cpp.
PIECE = 16


def transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices of F(4x4, 3x3): of tiles, of kernels and back.

    With them, in one dimension, ``back @ ((kernels @ g) * (tiles @ x))`` are the 4 values
    of the convolution of 6 values x with 3 weights g.

    Returns:
        Shapes (6, 6), (6, 3) and (4, 6).
    """
    a, b = POINTS
    p, q = a * a, b * b
    tiles = [
        [p * q, 0, -(p + q), 0, 1, 0],
        [0, -a * q, -q, a, 1, 0],
        [0, a * q, -q, -a, 1, 0],
        [0, -b * p, -p, b, 1, 0],
        [0, b * p, -p, -b, 1, 0],
        [0, p * q, 0, -(p + q), 0, 1],
    ]
    m, n = 1 / (2 * p * (p - q)), 1 / (2 * q * (q - p))
    kernels = [
        [1 / (p * q), 0, 0],
        [m, m * a, m * p],
        [m, -m * a, m * p],
        [n, n * b, n * q],
        [n, -n * b, n * q],
        [0, 0, 1],
    ]
    back = [
        [1, 1, 1, 1, 1, 0],
        [0, a, -a, b, -b, 0],
        [0, p, p, q, q, 0],
        [0, a * p, -a * p, b * q, -b * q, 1],
    ]
    matrices = (
        torch.tensor(rows, dtype=torch.float64) for rows in (tiles, kernels, back)
    )
    of_tiles, of_kernels, and_back = (matrix.to(dtype) for matrix in matrices)
    return of_tiles, of_kernels, and_back


def winograd_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve by F(4x4, 3x3) in plain torch, with stride 1 and padding ``dilation``.

    Args:
        x: Shape (N, in_channels, H, W).
        weight: Shape (out_channels, in_channels / groups, 3, 3).
        bias: Shape (out_channels,).
        dilation: Of the kernel.
        groups: Of the channels.

    Returns:
        Shape (N, out_channels, H, W).
    """
    of_tiles, of_kernels, back = transforms(x.dtype)
    n, _, height, width = x.shape
    d, out = dilation, len(weight)
    # Tiles in each direction of each of the d x d images of every d-th pixel.
    rows, columns = (-(-side // (TILE * d)) for side in (height, width))
    padding = (d, (columns * TILE + 1) * d - width, d, (rows * TILE + 1) * d - height)
    # (N, groups, C, row in image, phase, column in image, phase)
    images = F.pad(x, padding).view(
        n, groups, -1, rows * TILE + 2, d, columns * TILE + 2, d
    )
    tiles = images.unfold(3, SIDE, TILE).unfold(5, SIDE, TILE)
    v = torch.einsum('is,jt,ngcyaxbst->ijgnyaxbc', of_tiles, of_tiles, tiles)
    kernels = weight.unflatten(0, (groups, -1))
    u = torch.einsum('is,jt,gocst->ijgco', of_kernels, of_kernels, kernels)
    products = v.flatten(3, 7) @ u
    m = products.unflatten(3, (n, rows, d, columns, d))
    y = torch.einsum('si,tj,ijgnyaxbo->ngoysaxtb', back, back, m)
    y = y.reshape(n, out, rows * TILE * d, columns * TILE * d)[..., :height, :width]
    return y if bias is None else y + bias.view(-1, 1, 1)


def fits(module: nn.Module) -> bool:
    """Tell whether a module is a convolution that Winograd's algorithm can compute."""
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
    """Lay kernels out as ``winograd.cpp`` reads them, in one go from start to end.

    Args:
        weight: Shape (out_channels, in_channels / groups, 3, 3).
        groups: Of the channels; a piece is of one of them.

    Returns:
        The same numbers in one dimension, piece by piece: each is (in_channels / groups,
        3, 3, PIECE), the last of a group narrower if it has to be.
    """
    return torch.cat(
        [
            piece.permute(1, 2, 3, 0).flatten()
            for group in weight.chunk(groups)
            for piece in group.split(PIECE)
        ]
    )


def unpack(packed: Tensor, out_channels: int, groups: int) -> Tensor:
    """Undo :func:`pack`.

    Args:
        packed: Shape (out_channels * in_channels / groups * 9,).
        out_channels: Of all groups.
        groups: Of the channels.

    Returns:
        Shape (out_channels, in_channels / groups, 3, 3).
    """
    of_one = packed.numel() // out_channels
    channels = out_channels // groups
    sizes = [min(PIECE, channels - first) for first in range(0, channels, PIECE)] * groups
    pieces = packed.split([size * of_one for size in sizes])
    return torch.cat(
        [
            piece.view(-1, 3, 3, size).permute(3, 0, 1, 2)
            for piece, size in zip(pieces, sizes)
        ]
    )


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 computed by Winograd's algorithm, for inference.

    It has the weights of the ``nn.Conv2d`` it is made from. In memory they lie as
    :func:`pack` leaves them; ``weight`` and the state dict have their usual shape, so
    that either loads what the other has saved.

    What ``torch.export``, ``torch.compile`` and ``torch.jit.trace`` see is the plain
    convolution.

    Args:
        conv: A 3x3 convolution of stride 1, padded by its dilation. It is left as it is.
        relu: Whether a ReLU follows.

    Raises:
        ValueError: If the convolution is another one.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        if not fits(conv):
            raise ValueError(
                'Winograd needs a 3x3 nn.Conv2d of stride 1 with padding equal to '
                f'dilation, but got {conv}'
            )
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            3,
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            device='meta',
        )
        # What the property of this name is about from here on.
        del self.weight
        self.packed = nn.Parameter(
            pack(conv.weight.detach(), conv.groups), requires_grad=False
        )
        self.bias = _copied(conv.bias)
        self.relu = relu
        self.eval()

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The kernels, (out_channels, in_channels / groups, 3, 3): a copy.

        Changing its numbers changes nothing; assign a parameter.
        """
        # While there is no `packed` yet, this is an AttributeError: and so nn.Conv2d's
        # constructor can register a weight, and find it.
        return unpack(self.packed, self.out_channels, self.groups)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Pack what is assigned to ``weight``, as by who folds a norm into a conv.

        Raises:
            ValueError: If it has another shape.
        """
        if name == 'weight' and param is not None and 'packed' in self._parameters:
            shape = (self.out_channels, self.in_channels // self.groups, 3, 3)
            if param.shape != shape:
                raise ValueError(
                    f'weight must be of shape {shape}, but got {tuple(param.shape)}: '
                    'for other channels change the model that was deployed from'
                )
            packed = pack(param.detach(), self.groups)
            name, param = 'packed', nn.Parameter(packed, requires_grad=False)
        super().register_parameter(name, param)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + 'weight'] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + 'packed']

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load as the plain convolution does, with its words for what does not fit."""
        plain = self.plain()
        plain._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        loaded = {'packed': pack(plain.weight.detach(), self.groups), 'bias': plain.bias}
        for name, value in loaded.items():
            if value is None:
                continue
            if local_metadata.get('assign_to_params_buffers'):
                setattr(self, name, nn.Parameter(value.detach(), requires_grad=False))
            else:
                getattr(self, name).data.copy_(value)

    def plain(self) -> nn.Conv2d:
        """Return a copy of the convolution that it was made from, without the ReLU."""
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            3,
            padding=self.padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            groups=self.groups,
            bias=self.bias is not None,
            device='meta',
        )
        conv.weight = nn.Parameter(self.weight, requires_grad=False)
        conv.bias = _copied(self.bias)
        return conv.eval()

    def extra_repr(self) -> str:
        """Name the ReLU too."""
        return super().extra_repr() + (', relu=True' if self.relu else '')

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W), channels last.

        What is not float32 on a CPU, bfloat16 by autocast among it, is computed directly:
        the transforms would cost it more digits than it has.

        Raises:
            RuntimeError: If a gradient is asked for, the input is on a GPU, or is none of
                a convolution with these channels.
        """
        if torch.jit.is_tracing() or is_compiling():
            return self._direct(x)
        asked = (x, *self.parameters())
        if (
            torch.is_grad_enabled() and any(tensor.requires_grad for tensor in asked)
        ) or forward_ad.unpack_dual(x).tangent is not None:
            raise RuntimeError(
                'WinogradConv2d is for inference and has no gradient: run it under '
                'torch.no_grad(), and train the model that was deployed from'
            )
        if x.device.type not in ('cpu', 'meta'):
            raise RuntimeError(
                f'WinogradConv2d computes on a CPU, but its input is on {x.device}: use '
                "deploy(model, engine='torch') there, where cuDNN has Winograd of its own"
            )
        fits_in = x.dim() == 4 and x.shape[1] == self.in_channels and x.numel() > 0
        # Under a mode, such as one that counts or traces, tensors may be no numbers.
        watched = _get_current_dispatch_mode() is not None or _autocasting()
        if watched or not fits_in or not all(map(_is_plain, asked)):
            return self._direct(x)
        native, dilation = library(), self.dilation[0]
        if native is not None:
            return native.winograd_conv2d(
                x,
                self.packed,
                self.bias,
                self.out_channels,
                dilation,
                self.groups,
                self.relu,
            )
        y = winograd_conv2d(x, self.weight, self.bias, dilation, self.groups)
        return y.relu_() if self.relu else y

    def _direct(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.relu() if self.relu else y


def _copied(bias: Tensor | None) -> nn.Parameter | None:
    """Whoever loads into one of two models must not change the other by half."""
    if bias is None:
        return None
    copy = bias.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copy, requires_grad=False)


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether there are float32 numbers at its address."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == 'cpu'
        and tensor.dtype == torch.float32
        and not tensor.is_neg()
    )


def _autocasting() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # torch 2.3 and older
        return torch.is_autocast_cpu_enabled()
