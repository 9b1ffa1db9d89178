"""Pruning the channels of a fused segmentor; the result is a config and a checkpoint."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from repvgg_runtime.extras import require

from ..checkpoints.files import write_checkpoint
from ..datasets.checks import check_dataset, check_loading
from ..engine.config_checks import check_keys, model_heads
from ..engine.load_model import load_model
from ..errors import CheckpointError, ConfigError
from ..models import RepVGG
from ..models.archs import get_arch
from ..reparam import RepConv, deploy
from ..reparam.blocks import RepVGGBlock
from ..reparam.pruning import Step, estimate, removal_steps
from .staging import staged

MULTIPLE = 8
"""Processors compute this many channels at once: every layer keeps a multiple."""
LEAST = 0.2
"""Share of its channels that every layer keeps."""

Stages = list[list[int]]


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A pruned segmentor that was written.

    Attributes:
        config: The config of the fused form, whose ``load_from`` is the checkpoint.
        checkpoint: The checkpoint, beside the config.
        before: Channels of each layer of the backbone's stages.
        after: The same after pruning.
    """

    config: Path
    checkpoint: Path
    before: Stages
    after: Stages


def prune(
    cfg: Config,
    model: BaseModel,
    path: str | Path,
    *,
    share: float = 0.3,
    images: int = 64,
) -> Pruned:
    """Remove the channels of a fused backbone that matter least, and save the result.

    Output channels of all convolutions of the backbone are removed, with the input
    channels of what reads them, the heads included. Images of the training set tell which
    channels matter least and what makes up for them, see ``reparam/pruning.py``. Nothing
    is trained.

    Args:
        cfg: The config of the model, with the training set; it is not changed.
        model: From :func:`~mmseg_repvgg.engine.load_model.load_model`, in any form.
        path: The config to write, ``*.py``. The checkpoint is put beside it.
        share: Share of the backbone's channels to remove, above 0 and below 0.8.
        images: Number of images of the training set to look at, at least 1.

    Raises:
        ConfigError: If an argument is not allowed, or if the backbone is no plain chain
            of convolutions or has readers that cannot be pruned.
        DataError: If data is missing.
        ExtraError: If torch-pruning is missing.
        WriteError: If a file cannot be written. No error leaves a new file.
    """
    path = Path(path)
    if path.suffix != '.py':
        raise ConfigError(f'the config to write must be named *.py, but got {path}')
    if not 0 < share < 1 - LEAST:
        raise ConfigError(
            f'--share must be above 0 and below {1 - LEAST:g}, but got {share}'
        )
    if images < 1:
        raise ConfigError(f'--images must be at least 1, but got {images}')
    check_keys(cfg, ('train_dataloader',), 'pruning')
    check_dataset(cfg.train_dataloader.dataset)
    require('torch_pruning', 'prune')
    # The result of `deploy` shares the weights of the heads with the model.
    net: Any = copy.deepcopy(deploy(model))
    _require_chain(net)
    before = _channels(net.backbone)
    graph, layers = _trace(net)
    _observe(net, layers, cfg, images)
    choice = _choose(layers, share)
    for layer, removed in zip(layers, choice):
        layer.compensate(removed)
    for layer, removed in zip(layers, choice):
        _group(graph, layer.conv, removed).prune()
    done = Pruned(path, path.with_suffix('.pth'), before, _channels(net.backbone))
    _write(done, cfg, net, model.dataset_meta)
    return done


class _Layer:
    """A convolution of the backbone, and what reads its output.

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
    """Return what torch-pruning changes to remove output channels of a conv."""
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
def _observe(net: Any, layers: list[_Layer], cfg: Config, images: int) -> None:
    """Collect the moments of all layers on images of the training set."""
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.update(num_workers=0, persistent_workers=False)
    check_loading(loader.dataset)
    hooks = [
        block.register_forward_hook(layer.observe)
        for block, layer in zip(_blocks(net.backbone), layers)
    ]
    seen = 0
    for batch in Runner.build_dataloader(loader, seed=0):
        inputs = net.data_preprocessor(batch, True)['inputs']
        net.backbone(inputs)
        seen += len(inputs)
        if seen >= images:
            break
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


def _write(done: Pruned, cfg: Config, net: Any, dataset_meta: Any) -> None:
    """Write config and checkpoint, and read them back before they are placed."""
    pruned = _pruned_config(cfg, done)
    meta = dict(cfg=pruned.pretty_text, dataset_meta=dataset_meta)
    with staged(done.config) as stage:
        pruned.dump(stage)
        checkpoint = stage.with_suffix('.pth')
        write_checkpoint(dict(meta=meta, state_dict=net.state_dict()), checkpoint)
        try:
            load_model(Config.fromfile(stage), checkpoint)
        except CheckpointError as error:
            raise ConfigError(
                'pruning needs heads with in_channels as their only width of the backbone'
            ) from error


def _pruned_config(cfg: Config, done: Pruned) -> Config:
    pruned = copy.deepcopy(cfg)
    # The tools set these for each run.
    for key in ('work_dir', 'launcher'):
        pruned.pop(key, None)
    backbone = pruned.model.backbone
    outputs = [stage[-1] for stage in done.after[1:]]
    outputs = [outputs[i] for i in backbone.get('out_indices', range(len(outputs)))]
    arch = dataclasses.asdict(get_arch(backbone.get('arch', 'B2')))
    backbone.update(arch={**arch, 'channels': done.after}, deploy=True)
    backbone.pop('init_cfg', None)
    for _, head in model_heads(pruned.model):
        at = head.get('in_index', -1)
        several = isinstance(at, (list, tuple))
        head.in_channels = [outputs[i] for i in at] if several else outputs[at]
    # mmengine replaces this by the folder of the config.
    pruned.load_from = f'{{{{ fileDirname }}}}/{done.checkpoint.name}'
    pruned.resume = False
    return pruned
