"""Building the stages of a backbone from its plan."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

from ..errors import ConfigError
from ..reparam.blocks import RepConv, RepVGGBlock, ResidualBlock, SqueezeExcite
from ..reparam.branches import NormFactory, build_conv
from ..reparam.formulas import parse
from .archs import Layer

SlotBuilder = Callable[[Layer, str], nn.Module]
"""Builds the module in a slot from a layer and a block, as :func:`build_slot` does."""


def build_slot(
    layer: Layer, block: str, norm: NormFactory, deploy: bool, recompute_1x1: bool
) -> nn.Module:
    """Build the module in the slot of a block.

    Args:
        layer: The geometry.
        block: A name in ``BLOCKS`` or a formula.
        norm: Builds a batch norm for a number of channels.
        deploy: Whether to build the fused form, one convolution with bias.
        recompute_1x1: Whether the backward pass recomputes 1x1 convs.
    """
    geometry = dataclasses.asdict(layer)
    identity = geometry.pop('identity')
    if deploy:
        return build_conv(parse(block).kernel, **geometry, bias=True)
    return RepConv(
        **geometry,
        identity=identity,
        norm=norm,
        block=block,
        recompute_1x1=recompute_1x1,
    )


def build_stage(
    layers: Sequence[Layer], slot: SlotBuilder, block: str, se: bool, residual: bool
) -> nn.Sequential:
    """Build a stage.

    Args:
        layers: The layers of the stage, in order.
        slot: Builds the module in the slot of a layer.
        block: A name in ``BLOCKS`` or a formula.
        se: Whether each block has squeeze-and-excitation.
        residual: Whether to put the blocks in pairs with a shortcut around each pair.

    Raises:
        ConfigError: If ``residual`` is set and the number of layers is odd.
    """
    blocks = [
        RepVGGBlock(slot(layer, block), SqueezeExcite(layer.out_channels) if se else None)
        for layer in layers
    ]
    _scale_by_depth(blocks)
    return nn.Sequential(*(_pair(layers, blocks, slot) if residual else blocks))


def _pair(
    layers: Sequence[Layer], blocks: Sequence[RepVGGBlock], slot: SlotBuilder
) -> Iterator[ResidualBlock]:
    if len(blocks) % 2:
        raise ConfigError(
            'residual=True needs an even number of layers in stages 2 to 4, but got '
            f'{len(blocks)}'
        )
    for layer, first, second in zip(layers[::2], blocks[::2], blocks[1::2]):
        shortcut = nn.Identity() if layer.identity else slot(layer, '1x1-bn')
        yield ResidualBlock(first, second, shortcut)


def _scale_by_depth(blocks: Iterable[nn.Module]) -> None:
    """Initialize the scales of convs, so that deep blocks begin close to the identity.

    The values are those of the authors' code of RepOptimizers: sqrt(2 / l) for block l of
    a stage, 1 for the first.
    """
    for depth, block in enumerate(blocks):
        for name, module in block.named_modules():
            if name.endswith('.scale'):
                nn.init.constant_(module.weight, math.sqrt(2 / depth) if depth else 1)
