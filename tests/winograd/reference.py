"""Winograd's algorithm F(4x4, 3x3) in plain torch, as a reference."""

import torch
import torch.nn.functional as F

TILE = 4
SIDE = TILE + 2
# Points of interpolation 0, a, -a, b, -b and infinity, as in winograd.cpp.
POINTS = (0.625, 1.5)


def transforms(dtype):
    """Return the matrices that transform tiles, kernels and products of F(4x4, 3x3).

    In one dimension ``back @ ((kernels @ g) * (tiles @ x))`` is the convolution of 6
    values x with 3 weights g, which has 4 values.

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


def winograd_conv2d(x, weight, bias=None, dilation=1, groups=1):
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
