"""Runs of dilated convolutions, computed without dilation on the phases of a map.

A convolution of dilation d reads pixels that are d apart, so the d x d phases of a map,
each of every d-th pixel in both directions, never mix. On a phase it is an ordinary
convolution. Consecutive layers of one dilation therefore need one rearrangement of their
input and one of their output; TensorFlow documents this for its ``atrous_conv2d``.

A map that d does not divide is padded with zeros at the bottom and on the right. Every
layer but the last sets the padding back to zero, as the next one reads it.
"""

import functools
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..winograd.conv import fits
from ..winograd.engines import TRIAL_SIDE, is_faster
from .blocks import RepVGGBlock
from .branches import build_conv

# Layers of a run that a trial takes: the first has other channels, and the groups of the
# next two alternate.
_TRIAL_LAYERS = 3


def to_phases(x: Tensor, d: int) -> Tensor:
    """Rearrange maps to their phases, padded with zeros if ``d`` does not divide a side.

    Args:
        x: Shape (N, C, H, W).
        d: Number of phases in each direction.

    Returns:
        Shape (N * d * d, C, ceil(H / d), ceil(W / d)), in the memory format of ``x``.
    """
    n, channels, height, width = x.shape
    rows, columns = (height + d - 1) // d, (width + d - 1) // d
    if not _divides(d, x):
        x = F.pad(x, (0, columns * d - width, 0, rows * d - height))
    if _is_channels_last(x):
        x = x.reshape(n, channels, rows, d, columns, d).permute(0, 3, 5, 2, 4, 1)
        return x.reshape(n * d * d, rows, columns, channels).permute(0, 3, 1, 2)
    # ONNX Runtime is several times slower at moving both dimensions at once.
    x = x.reshape(n, channels, rows, d, columns * d).permute(0, 3, 1, 2, 4)
    x = x.reshape(n * d, channels, rows, columns, d).permute(0, 4, 1, 2, 3)
    return x.reshape(n * d * d, channels, rows, columns)


def from_phases(x: Tensor, d: int, like: Tensor) -> Tensor:
    """Invert :func:`to_phases`.

    Args:
        x: Shape (N * d * d, C, ceil(H / d), ceil(W / d)).
        d: Number of phases in each direction.
        like: Maps of the size of the result, (N, any, H, W).

    Returns:
        Shape (N, C, H, W), in the memory format of ``x``.
    """
    _, channels, rows, columns = x.shape
    n, _, height, width = like.shape
    if _is_channels_last(x):
        x = x.reshape(n, d, d, channels, rows, columns).permute(0, 4, 1, 5, 2, 3)
        x = x.reshape(n, rows * d, columns * d, channels).permute(0, 3, 1, 2)
    else:
        x = x.reshape(n * d, d, channels, rows, columns).permute(0, 2, 3, 4, 1)
        x = x.reshape(n, d, channels, rows, columns * d).permute(0, 2, 3, 1, 4)
        x = x.reshape(n, channels, rows * d, columns * d)
    return x if _divides(d, like) else x[:, :, :height, :width]


def _is_channels_last(x: Tensor) -> bool:
    # Copying such a map channel by channel takes up to a hundred times as long.
    return _is_sized(x) and x.is_contiguous(memory_format=torch.channels_last)


def _divides(d: int, x: Tensor) -> bool:
    """Return whether a number is known to divide the height and the width of maps."""
    return _is_sized(x) and all(side % d == 0 for side in x.shape[2:])


def _is_sized(x: Tensor) -> bool:
    # A size that is left open while a graph is traced is a symbol.
    return all(isinstance(side, int) for side in x.shape)


class PhasedSequential(nn.Sequential):
    """A sequence of fused blocks whose runs of one dilation are computed on phases.

    It computes what an ``nn.Sequential`` of the same blocks does, and its state dict is
    the same. The convs keep their dilation; only their kernels and biases are used.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to what the blocks return, one after the other."""
        for d, blocks in runs(self):
            if d > 1:
                x = _run_on_phases(blocks, d, x)
            else:
                for block in blocks:
                    x = block(x)
        return x


def runs(blocks: Iterable[nn.Module]) -> list[tuple[int, list[Any]]]:
    """Return the :func:`shared_dilation` and the blocks of each run of equal ones."""
    found: list[tuple[int, list[Any]]] = []
    # torch.compile does not know itertools.groupby with modules.
    for block in blocks:
        d = shared_dilation(block)
        if not found or found[-1][0] != d:
            found.append((d, []))
        found[-1][1].append(block)
    return found


def shared_dilation(block: nn.Module) -> int:
    """Return the dilation by whose phases a block can be computed; 1 if it cannot."""
    if (
        type(block) is RepVGGBlock
        and type(block.act) is nn.ReLU
        and fits(block.conv)
        and 'forward' not in vars(block)
        # Hooks expect whole maps.
        and not any(m._forward_hooks or m._forward_pre_hooks for m in (block, block.act))
    ):
        conv: Any = block.conv
        return conv.dilation[0]
    return 1


def _run_on_phases(blocks: list[Any], d: int, image: Tensor) -> Tensor:
    x = to_phases(image, d)
    inside = None
    if not _divides(d, image):
        inside = to_phases(torch.ones_like(image[:, :1]), d)
    for index, block in enumerate(blocks):
        if index and inside is not None:
            x = x * inside
        conv = block.conv
        x = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=conv.groups)
        if type(block.se) is not nn.Identity:
            # It averages over the whole map.
            x = to_phases(block.se(from_phases(x, d, image)), d)
        x = block.act(x)
    return from_phases(x, d, image)


def choose_phases(model: nn.Module, engine: str) -> None:
    """Choose which sequences of fused blocks are computed on phases; in place.

    Args:
        model: A fused model.
        engine: ``'phases'`` for every sequence with a dilated block, ``'auto'`` for those
            that a trial finds faster so, any other name for none.
    """
    module: Any
    for module in model.modules():
        if type(module) is PhasedSequential:
            module.__class__ = nn.Sequential  # type: ignore[assignment]
        if (
            type(module) is nn.Sequential
            and any(shared_dilation(block) > 1 for block in module)
            and (engine == 'phases' or (engine == 'auto' and _pays(module)))
        ):
            # The object stays the one that other attributes and hooks refer to.
            module.__class__ = PhasedSequential


def _pays(blocks: nn.Sequential) -> bool:
    """Return whether phases are faster in a trial, for float32 on a CPU; else False."""
    convs: list[Any] = [block.conv for block in blocks if shared_dilation(block) > 1]
    weight = convs[0].weight
    if weight.device.type != 'cpu' or weight.dtype != torch.float32:
        return False
    layers = tuple(
        (conv.in_channels, conv.out_channels, 1, conv.dilation[0], conv.groups)
        for conv in convs[:_TRIAL_LAYERS]
    )
    return _phases_are_faster(layers, torch.get_num_threads())


@functools.cache
def _phases_are_faster(layers: tuple[tuple[Any, ...], ...], threads: int) -> bool:
    """Time both by turns. The number of threads is part of what the answer holds for."""
    blocks = []
    for layer in layers:
        with torch.device('meta'):
            conv = build_conv((3, 3), *layer)
        # Zeros, so that nothing is drawn from the random generator of a training.
        conv.weight = nn.Parameter(torch.zeros(conv.weight.shape), requires_grad=False)
        blocks.append(RepVGGBlock(conv))
    x = torch.zeros(1, layers[0][0], TRIAL_SIDE, TRIAL_SIDE)
    phased, direct = PhasedSequential(*blocks), nn.Sequential(*blocks)
    layout: Any = dict(memory_format=torch.channels_last)
    return is_faster(phased.to(**layout), direct, x.to(**layout))
