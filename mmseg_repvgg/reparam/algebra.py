"""The algebra of structural re-parameterization, as pure functions on tensors.

Equations 1-4 and Figure 4 of RepVGG (Ding et al., CVPR 2021,
https://arxiv.org/abs/2101.03697): a convolution followed by a batch norm is a
convolution with a bias; an identity is a 1x1 convolution; a 1x1 kernel is a 3x3 kernel
with zeros around it; and parallel convolutions of one geometry add up. The kernels of
DiracNets are here too.

Every function computes in float64 and returns float64. The caller casts the end result
back once, so a fused net is as exact as its dtype allows.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvParams(NamedTuple):
    """The parameters of a convolution.

    Attributes:
        kernel: Shape (out_channels, in_channels / groups, height, width).
        bias: Shape (out_channels,).
    """

    kernel: Tensor
    bias: Tensor


def to_float64(tensor: Tensor) -> Tensor:
    """Detach a tensor and cast it to float64, on the CPU where the device has none."""
    tensor = tensor.detach()
    if tensor.device.type == 'mps':
        tensor = tensor.cpu()
    return tensor.double()


def fold_batch_norm(
    conv: ConvParams,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
) -> ConvParams:
    """Fold an inference-time batch norm into the convolution before it (eq. 3).

    Args:
        conv: The convolution.
        mean: Running mean, shape (out_channels,).
        var: Running variance, shape (out_channels,).
        gamma: Scale, shape (out_channels,); None stands for ones.
        beta: Shift, shape (out_channels,); None stands for zeros.
        eps: The constant that the batch norm adds to the variance.

    Returns:
        The convolution that computes both.
    """
    scale = (to_float64(var) + eps).rsqrt()
    if gamma is not None:
        scale = scale * to_float64(gamma)
    centred = ConvParams(conv.kernel, to_float64(conv.bias) - to_float64(mean))
    kernel, bias = scale_channels(centred, scale)
    return ConvParams(kernel, bias if beta is None else bias + to_float64(beta))


def scale_channels(conv: ConvParams, scale: Tensor) -> ConvParams:
    """Multiply the outputs of a convolution by a factor each, shape (out_channels,)."""
    scale = to_float64(scale)
    return ConvParams(
        to_float64(conv.kernel) * scale.view(-1, 1, 1, 1), to_float64(conv.bias) * scale
    )


def identity_kernel(channels: int, groups: int = 1) -> Tensor:
    """Build the 1x1 kernel that passes its input through.

    In a grouped convolution, output channel i reads input channel
    ``i % (channels / groups)`` of its own group.

    Args:
        channels: Number of input and of output channels, a multiple of ``groups``.
        groups: Groups of the convolution.

    Returns:
        Kernel of shape (channels, channels / groups, 1, 1), float64, on the CPU.
    """
    kernel = torch.empty(channels, channels // groups, 1, 1, dtype=torch.float64)
    return nn.init.dirac_(kernel, groups)


def dirac_kernel(weight: Tensor, alpha: Tensor, beta: Tensor, groups: int = 1) -> Tensor:
    """Compute the kernel diag(alpha) I + diag(beta) W / |W| of DiracNets.

    ``I`` passes the first input channels through, and ``|W|`` is the norm of each filter
    (Zagoruyko and Komodakis, section 3, https://arxiv.org/abs/1706.00388).

    Args:
        weight: W, shape (out_channels, in_channels / groups, height, width).
        alpha: Factor of the identity, shape (out_channels,).
        beta: Factor of the filters, shape (out_channels,).
        groups: Groups of the convolution.

    Returns:
        The kernel, in the shape and dtype of ``weight``. It is differentiable.
    """
    identity = nn.init.dirac_(torch.empty_like(weight, requires_grad=False), groups)
    filters = F.normalize(weight.flatten(1)).view_as(weight)
    return alpha.view(-1, 1, 1, 1) * identity + beta.view(-1, 1, 1, 1) * filters


def pad_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad an odd kernel with zeros, centred, to a height and width."""
    vertical, horizontal = ((to - at) // 2 for to, at in zip(size, kernel.shape[-2:]))
    return F.pad(kernel, [horizontal, horizontal, vertical, vertical])


def add_parallel(branches: Iterable[ConvParams]) -> ConvParams:
    """Add up parallel convolutions of the same stride, dilation and groups (eq. 4).

    Smaller kernels are padded to the largest. With dilation d a centred 1x1 kernel
    reads the centre tap for any d.

    Args:
        branches: At least one; kernels are of odd height and width.

    Returns:
        The convolution that equals their sum.
    """
    convs = [ConvParams(to_float64(b.kernel), to_float64(b.bias)) for b in branches]
    size = tuple(max(sizes) for sizes in zip(*(c.kernel.shape[-2:] for c in convs)))
    kernels = [pad_kernel(conv.kernel, size) for conv in convs]
    return ConvParams(
        torch.stack(kernels).sum(0), torch.stack([conv.bias for conv in convs]).sum(0)
    )
