"""Channel pruning of a fused backbone and of the layers that read it."""

from collections.abc import Iterable
from typing import Any

import torch
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from repvgg_runtime.extras import require

from ..errors import ConfigError
from ..models import RepVGG
from ..reparam import RepConv
from ..reparam.blocks import RepVGGBlock
from ..reparam.pruning import Step, estimate, removal_steps

MULTIPLE = 8
"""Every layer keeps a multiple: processors compute this many channels at once."""
LEAST = 0.2
"""Least share of its channels that a layer keeps."""

Stages = list[list[int]]


def remove_channels(
    net: Any, inputs: Iterable[Tensor], share: float
) -> tuple[Stages, Stages]:
    """Remove output channels of the convolutions of a fused segmentor's backbone.

    The channels of least error are removed, with the input channels of the layers that
    read them, heads included. The remaining channels compensate for them. The segmentor
    is changed in place.

    Args:
        net: A fused segmentor with a plain chain of convolutions as its backbone.
        inputs: Preprocessed images (N, C, H, W) on which the errors are measured.
        share: Share of the backbone's channels to remove, above 0 and below 1 - LEAST.

    Returns:
        The channels of each layer of the backbone's stages before and after.

    Raises:
        ConfigError: If the backbone is no such chain, if another layer than a plain
            convolution reads it, or if layers would keep less than they must.
        ExtraError: If torch-pruning is missing.
    """
    _require_chain(net)
    before = _channels(net.backbone)
    graph, layers = _trace(net)
    _observe(net, layers, inputs)
    choice = _choose(layers, share)
    for layer, removed in zip(layers, choice):
        layer.compensate(removed)
    for layer, removed in zip(layers, choice):
        _group(graph, layer.conv, removed).prune()
    return before, _channels(net.backbone)


class _Layer:
    """A convolution of the backbone and the convolutions that read its output.

    Attributes:
        conv: The convolution.
        readers: The convolutions that read its output, each with the positions of the
            output's channels among its input channels.
        moments: Sums of products of channels of the output, (out_channels, out_channels).
    """

    def __init__(self, conv: nn.Conv2d, readers: list[tuple[nn.Conv2d, Tensor]]) -> None:
        self.conv, self.readers = conv, readers
        self.moments = torch.zeros(2 * [conv.out_channels], dtype=torch.float64)

    def observe(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        """Add an output of the block to the moments, as a forward hook."""
        x = output.transpose(0, 1).flatten(1).double()
        self.moments += x @ x.T

    def steps(self) -> list[Step]:
        """Return the steps of pruning this layer."""
        kernels = [reader.weight[:, at].double() for reader, at in self.readers]
        columns = torch.cat([kernel.transpose(0, 1).flatten(1) for kernel in kernels], 1)
        return removal_steps(self.moments, columns @ columns.T, MULTIPLE, LEAST)

    @torch.no_grad()
    def compensate(self, removed: list[int]) -> None:
        """Fold an estimate of channels that are to be removed into the readers."""
        kept = sorted({*range(self.conv.out_channels)} - {*removed})
        factors = estimate(self.moments, removed, kept)
        for reader, at in self.readers:
            kernel = reader.weight[:, at[removed]].double()
            change = torch.einsum('orhw,kr->okhw', kernel, factors)
            reader.weight[:, at[kept]] += change.to(reader.weight)


def _require_chain(net: Any) -> None:
    """Check that a fused segmentor has a plain chain of convolutions as its backbone."""
    backbone = getattr(net, 'backbone', None)
    if type(net) is not EncoderDecoder or not isinstance(backbone, RepVGG):
        raise ConfigError(
            'pruning needs an EncoderDecoder with a RepVGG, but got '
            f'{type(net).__name__} with {type(backbone).__name__}'
        )
    obstacles = {
        'squeeze-and-excitation': backbone.arch.se,
        f'convolutions of {backbone.arch.groups} groups': backbone.arch.groups > 1,
        'shortcuts': backbone.residual,
        'a neck': net.with_neck,
        'a ReLU in a branch': any(isinstance(m, RepConv) for m in backbone.modules()),
    }
    for obstacle, found in obstacles.items():
        if found:
            raise ConfigError(
                f'pruning needs a plain chain of convolutions, but got {obstacle}'
            )


def _blocks(backbone: nn.Module) -> list[Any]:
    return [m for m in backbone.modules() if isinstance(m, RepVGGBlock)]


def _channels(backbone: RepVGG) -> Stages:
    """Return the channels of each layer; stages that are not built have the arch's."""
    widths = [width for stage in backbone.arch.channels for width in stage]
    built = [block.conv.out_channels for block in _blocks(backbone)]
    each = iter([*built, *widths[len(built) :]])
    return [[next(each) for _ in stage] for stage in backbone.arch.channels]


def _group(graph: Any, conv: nn.Conv2d, channels: list[int]) -> Any:
    """Return torch-pruning's group of changes that remove output channels of a conv."""
    pruning = require('torch_pruning', 'prune')
    outputs = pruning.prune_conv_out_channels
    return graph.get_pruning_group(conv, outputs, sorted(channels))


def _run_all_heads(net: Any, image: Tensor) -> list[Tensor]:
    auxiliary = net.auxiliary_head if net.with_auxiliary_head else []
    several = isinstance(auxiliary, (list, nn.ModuleList))
    heads = [net.decode_head, *(auxiliary if several else [auxiliary])]
    maps = net.extract_feat(image)
    return [head.forward(maps) for head in heads]


def _trace(net: Any) -> tuple[Any, list[_Layer]]:
    """Return torch-pruning's graph of a segmentor, and the layers of the backbone.

    Raises:
        ConfigError: If another layer than a plain convolution reads the backbone.
    """
    pruning = require('torch_pruning', 'prune')
    # The graph is made from that of autograd.
    net.requires_grad_(True)
    image = torch.zeros(1, net.backbone.in_channels, 128, 128)
    graph = pruning.DependencyGraph().build_dependency(
        net, image, forward_fn=_run_all_heads
    )
    net.requires_grad_(False)
    layers = []
    for block in _blocks(net.backbone):
        readers = []
        for dependency, at in _group(
            graph, block.conv, [*range(block.conv.out_channels)]
        ):
            module = dependency.target.module
            if module is block.conv or not list(module.parameters()):
                continue
            reads = dependency.handler == pruning.prune_conv_in_channels
            if not reads or type(module) is not nn.Conv2d or module.groups > 1:
                raise ConfigError(
                    'pruning needs plain convolutions that read the backbone, but got '
                    f'{dependency.target.name}'
                )
            readers.append((module, torch.tensor(at)))
        layers.append(_Layer(block.conv, readers))
    return graph, layers


@torch.no_grad()
def _observe(net: Any, layers: list[_Layer], inputs: Iterable[Tensor]) -> None:
    """Collect the moments of all layers."""
    hooks = [
        block.register_forward_hook(layer.observe)
        for block, layer in zip(_blocks(net.backbone), layers)
    ]
    for images in inputs:
        net.backbone(images)
    for hook in hooks:
        hook.remove()


def _choose(layers: list[_Layer], share: float) -> Stages:
    """Choose the channels of each layer to remove: always those of least error."""
    removed: Stages = [[] for _ in layers]
    waiting = [layer.steps()[::-1] for layer in layers]
    target = share * sum(layer.conv.out_channels for layer in layers)
    while sum(map(len, removed)) < target:
        errors = {
            index: steps[-1].error / len(steps[-1].channels)
            for index, steps in enumerate(waiting)
            if steps
        }
        if not errors:
            raise ConfigError(
                f'--share {share} is too much for this backbone: every layer keeps a '
                f'fifth of its channels and at least {MULTIPLE}'
            )
        best = min(errors, key=lambda index: errors[index])
        removed[best] += waiting[best].pop().channels
    return removed
