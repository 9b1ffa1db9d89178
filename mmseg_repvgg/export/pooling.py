"""Adaptive average pooling as two matrix products: exact at any size, in any runtime.

ONNX has no adaptive pooling, and a plain one with a computed window is the same only
where the size is a multiple of the number of bins. Bin i of k covers, of n pixels, those
from floor(i n / k) to ceil((i + 1) n / k): it is a row of a matrix, and pooling a map is
a product with one such matrix from each side. Where the size is fixed when the model is
exported, the matrices end up as constants; where it is not, the graph makes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.psp_head import PPM
from torch import Tensor, nn


def bin_matrix(length: int, bins: int, like: Tensor) -> Tensor:
    """The matrix that averages ``length`` values into bins.

    Args:
        length: Number of values; when tracing or exporting, its symbol.
        bins: Number of bins; more than there are values makes some overlap.
        like: Gives dtype and device.

    Returns:
        Shape (bins, length); each row sums to 1.
    """
    index = torch.arange(bins, device=like.device).unsqueeze(1)
    pixel = torch.arange(length, device=like.device).unsqueeze(0)
    # p >= floor(i n / k) and p < ceil((i + 1) n / k), of integers, without dividing.
    inside = ((pixel + 1) * bins > index * length) & (pixel * bins < (index + 1) * length)
    weight = inside.to(like.dtype)
    return weight / weight.sum(1, keepdim=True)


class MatrixAvgPool2d(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as products with matrices.

    Args:
        bins: Number of bins down and across.
    """

    def __init__(self, bins: tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps of shape (B, C, H, W) to (B, C, *bins)."""
        down = bin_matrix(x.shape[2], self.bins[0], x)
        across = bin_matrix(x.shape[3], self.bins[1], x)
        return down @ (x @ across.transpose(0, 1))


class Pyramid(nn.Module):
    """mmseg's ``PPM`` without what keeps it from being exported at a size left open.

    Args:
        ppm: The module whose branches, each a pooling and a conv, are taken over.
    """

    def __init__(self, ppm: PPM) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ppm.children())
        self.align_corners = ppm.align_corners

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give each branch's maps of x, (B, C, H, W), scaled up to its size."""
        return [upsample(branch(x), x, self.align_corners) for branch in self.branches]


def upsample(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    """Scale maps bilinearly to the height and width of other ones."""
    return F.interpolate(
        x, size=like.shape[2:], mode='bilinear', align_corners=align_corners
    )


def make_pooling_exact(model: nn.Module) -> nn.Module:
    """Put matrix products in the place of every adaptive average pooling, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                down, across = size if isinstance(size, tuple) else (size, size)
                if down and across:
                    setattr(parent, name, MatrixAvgPool2d((down, across)))
            elif isinstance(child, PPM):
                setattr(parent, name, Pyramid(child))
    return model
