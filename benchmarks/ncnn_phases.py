"""Dilated blocks without dilation for ncnn, whose maps have no batch.

The phases of a map (``mmseg_repvgg/reparam/phases.py``) lie side by side in one map,
each with a row of zeros below and a column of zeros on its right, which are its padding
and that of its neighbours. Every layer but the last sets these zeros again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.reparam.phases import PhasedSequential, runs


class SideBySideSequential(nn.Sequential):
    """A :class:`PhasedSequential` whose phases lie side by side, for a batch of 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, C, H, W) to what the blocks return, one after the other."""
        for d, blocks in runs(self):
            if d == 1:
                for block in blocks:
                    x = block(x)
                continue
            if any(type(block.se) is not nn.Identity for block in blocks):
                raise ConfigError('ncnn-phases has no squeeze-and-excitation')
            inside = place_phases(torch.ones_like(x[:, :1]), d)
            height, width = x.shape[2:]
            x = place_phases(x, d)
            for index, block in enumerate(blocks):
                if index:
                    x = x * inside
                conv = block.conv
                x = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=conv.groups)
                x = block.act(x)
            x = gather_phases(x, d)[:, :, :height, :width]
        return x


def place_phases(x: Tensor, d: int) -> Tensor:
    """Place the d x d phases of maps side by side.

    Args:
        x: Shape (1, C, H, W).
        d: Number of phases in each direction.

    Returns:
        Shape (1, C, d * (ceil(H / d) + 1), d * (ceil(W / d) + 1)).
    """
    _, channels, height, width = x.shape
    # pnnx computes the remainder of a negative number as C does.
    right, below = (d - 1 - (side - 1) % d for side in (width, height))
    x = F.pixel_unshuffle(F.pad(x, (0, right, 0, below)), d)
    x = F.pad(x, (0, 1, 0, 1))
    rows, columns = x.shape[2:]
    # ncnn has maps of at most four dimensions, which the batch is not one of.
    x = x.reshape(1, channels * d, d, rows, columns).transpose(2, 3)
    return x.reshape(1, channels, d * rows, d * columns)


def gather_phases(x: Tensor, d: int) -> Tensor:
    """Invert :func:`place_phases`, except for the zeros that it adds to a map.

    Args:
        x: Shape (1, C, d * (h + 1), d * (w + 1)).
        d: Number of phases in each direction.

    Returns:
        Shape (1, C, d * h, d * w).
    """
    _, channels, height, width = x.shape
    rows, columns = height // d, width // d
    x = x.reshape(1, channels * d, rows, d, columns).transpose(2, 3)
    x = x.reshape(1, channels * d * d, rows, columns)
    return F.pixel_shuffle(x[:, :, : rows - 1, : columns - 1], d)


def place_side_by_side(model: nn.Module) -> nn.Module:
    """Turn every :class:`PhasedSequential` into one for ncnn, in place."""
    module: Any
    for module in model.modules():
        if type(module) is PhasedSequential:
            module.__class__ = SideBySideSequential  # type: ignore[assignment]
    return model
