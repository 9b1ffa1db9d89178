"""Adaptive average pooling as two matrix products: exact at any size, in any runtime.

ONNX has no adaptive pooling, and plain pooling equals it only where the size is a
multiple of the number of bins. Bin i of k covers the pixels from floor(i n / k) to
ceil((i + 1) n / k) of n. It is one row of a matrix, and pooling a map multiplies it by
such a matrix from each side. With a fixed size the exporter folds the matrices into
constants; with an open one the graph computes them.
"""

import torch
from mmseg.models.decode_heads.psp_head import PPM
from mmseg.models.utils import resize
from torch import Tensor, nn
from torch.nn.modules.utils import _pair


def bin_matrix(length: int, bins: int, like: Tensor) -> Tensor:
    """Return the matrix, (bins, length), that averages ``length`` values into bins.

    The length is a symbol while the module is traced or exported. Bins overlap if there
    are more of them than values. Each row sums to 1.
    """
    index = torch.arange(bins, device=like.device).unsqueeze(1)
    pixel = torch.arange(length, device=like.device).unsqueeze(0)
    # p >= floor(i n / k) and p < ceil((i + 1) n / k) in integers, without dividing.
    inside = ((pixel + 1) * bins > index * length) & (pixel * bins < (index + 1) * length)
    weight = inside.to(like.dtype)
    return weight / weight.sum(1, keepdim=True)


class MatrixAvgPool2d(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as a product with two matrices."""

    def __init__(self, bins: tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps of shape (B, C, H, W) to (B, C, *bins)."""
        down = bin_matrix(x.shape[2], self.bins[0], x)
        across = bin_matrix(x.shape[3], self.bins[1], x)
        return down @ (x @ across.transpose(0, 1))


class Pyramid(nn.ModuleList):
    """mmseg's ``PPM`` without the size check that fixes the size of an exported graph."""

    def __init__(self, ppm: PPM) -> None:
        super().__init__(ppm)
        self.align_corners = ppm.align_corners

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of each branch, scaled up to the size of x, (B, C, H, W)."""
        return [upsample(branch(x), x, self.align_corners) for branch in self]


def upsample(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    """Scale maps bilinearly to the height and width of other maps."""
    return resize(x, like.shape[2:], None, 'bilinear', align_corners, warning=False)


def make_pooling_exact(model: nn.Module) -> nn.Module:
    """Replace every adaptive average pooling by matrix products, in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, PPM):
                setattr(parent, name, Pyramid(child))
            elif isinstance(child, nn.AdaptiveAvgPool2d):
                bins = _pair(child.output_size)
                if all(bins):
                    setattr(parent, name, MatrixAvgPool2d(bins))
    return model
