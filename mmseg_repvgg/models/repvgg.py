"""The RepVGG backbone for MMSegmentation.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021,
https://arxiv.org/abs/2101.03697.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoints.matching import adapt
from ..checkpoints.mmengine_patch import loading_safely
from ..errors import CheckpointError, ConfigError
from ..reparam.blocks import RepConv, RepVGGBlock, SqueezeExcite, conv3x3
from .archs import Arch, Layer, get_arch, is_count, plan

NUM_STAGES = 4


@MODELS.register_module()
class RepVGG(BaseModule):
    """RepVGG, from stage 1 (the stem) to stage 5, without the classifier.

    Args:
        arch: A name (A0 A1 A2 B0 B1 B2 B3, each plain or with g2 or g4 appended; D2se) or
            a dict of the fields of :class:`~mmseg_repvgg.models.archs.Arch`.
        dilation: ``'full'``: every 3x3 conv of the last two stages is dilated, output
            stride 8. ``'fast'``: only the last 5 layers are, output stride 8 too. None:
            no dilation, output stride 32 (section 4.3).
        out_indices: Which outputs to return; output i is stage i + 2 of the paper. Their
            strides are 4, 8, 8, 8, or 4, 8, 16, 32 without dilation.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n of the
            four stages behind it.
        norm_eval: Whether every batch norm keeps to its running statistics in training.
        with_cp: Whether to recompute each block in the backward pass instead of keeping
            what is in it. Gradients and running statistics are the same as without.
        norm_cfg: Config of the batch norm, of any kind that keeps running statistics
            (BN, SyncBN).
        in_channels: Channels of the image.
        deploy: Build the fused form: one 3x3 conv with bias a block.
        init_cfg: Initialization; by default Kaiming's for convs and ones for norms.

    Attributes:
        out_channels: Channels of each output, in the order of ``out_indices``.

    Raises:
        ConfigError: If an argument is not allowed; the message names it.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] | Arch = 'B2',
        dilation: str | None = 'full',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        deploy: bool = False,
        init_cfg: Any = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm']),
            ]
        super().__init__(init_cfg)
        self.arch = get_arch(arch)
        self.dilation = dilation
        if not is_count(in_channels):
            raise ConfigError(
                f'in_channels must be a whole number, at least 1, but got {in_channels!r}'
            )
        stages = plan(self.arch, dilation, in_channels)
        self.out_indices = _check_out_indices(out_indices)
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= NUM_STAGES:
            raise ConfigError(
                f'frozen_stages must be from -1 (none) to {NUM_STAGES}, '
                f'but got {frozen_stages!r}'
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.out_channels = tuple(stages[i + 1][-1].out_channels for i in out_indices)

        if norm_cfg is not None and not isinstance(norm_cfg, Mapping):
            raise ConfigError(
                "norm_cfg must be a dict such as dict(type='SyncBN'), but got "
                f'{norm_cfg!r}'
            )
        self.norm_cfg = dict(norm_cfg or dict(type='BN'))
        norm = partial(_build_norm, self.norm_cfg)
        build = partial(_build_block, self.arch, norm=norm, deploy=deploy)
        ((stem,), *rest) = stages
        self.stem = build(stem)
        # A stage behind the last output would be built, stored and never run.
        for index, layers in enumerate(rest[: max(self.out_indices) + 1], start=1):
            self.add_module(f'stage_{index}', nn.Sequential(*map(build, layers)))
        self._freeze()

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The stem, then stages 2 to 5 of the paper as far as they are built."""
        names = [f'stage_{index}' for index in range(1, max(self.out_indices) + 2)]
        return (self.stem, *(getattr(self, name) for name in names))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: Images, shape (B, in_channels, H, W).

        Returns:
            One map for each of ``out_indices``, shape (B, out_channels[i], H', W') with
            H' = ceil(H / stride) and W' likewise.
        """
        outputs = []
        stem, *stages = self.stages
        x = self._run(stem, x)
        for index, stage in enumerate(stages):
            x = self._run(stage, x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if not (self.with_cp and self.training):
            return stage(x)
        # Block by block: one recomputes its own maps only.
        for block in stage if isinstance(stage, nn.Sequential) else (stage,):
            x = checkpoint(
                block,
                x,
                use_reentrant=False,
                context_fn=partial(_contexts, block),
            )
        return x

    def train(self, mode: bool = True) -> RepVGG:
        """Set the mode; frozen stages and, with ``norm_eval``, all norms stay in eval."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def _freeze(self) -> None:
        for stage in self.stages[: self.frozen_stages + 1]:
            stage.eval()
            stage.requires_grad_(False)

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says; a checkpoint that it names cannot run code.

        Raises:
            CheckpointError: If it names a checkpoint that is refused or does not fit.
        """
        try:
            with loading_safely():
                super().init_weights()
        except CheckpointError as error:
            init_cfg: Any = self.init_cfg
            file = init_cfg['checkpoint']
            raise CheckpointError(f'{file}, of init_cfg: {error}') from error

    def adapt_state_dict(
        self, state_dict: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], str]:
        """Turn a state dict of any layout into one that fills this backbone exactly.

        Args:
            state_dict: See :func:`~mmseg_repvgg.checkpoints.matching.adapt`.

        Returns:
            The backbone's tensors, and what was done, in a line.

        Raises:
            CheckpointError: If it does not fit.
        """
        return adapt(state_dict, self.state_dict(), self.norm_cfg.get('eps', 1e-5))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        # mmengine loads with strict=False: whatever does not match is passed over. Here,
        # on the one path that all loading takes, a backbone is loaded whole or not at
        # all, whoever asks, from any project's layout.
        own = [key for key in state_dict if key.startswith(prefix)]
        found = {key[len(prefix) :]: state_dict[key] for key in own}
        backbone, said = self.adapt_state_dict(found)
        for key in own:
            del state_dict[key]
        state_dict.update({prefix + key: value for key, value in backbone.items()})
        print_log(said, 'current')
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    indices = tuple(out_indices) if isinstance(out_indices, Sequence) else ()
    if (
        not indices
        or any(i not in range(NUM_STAGES) for i in indices)
        or list(indices) != sorted(set(indices))
    ):
        raise ConfigError(
            f'out_indices must be some of {tuple(range(NUM_STAGES))}, in ascending '
            f'order, but got {out_indices!r}'
        )
    return indices


def _build_norm(cfg: dict[str, Any], channels: int) -> nn.Module:
    norm = build_norm_layer(cfg, channels)[1]
    if getattr(norm, 'running_mean', None) is None:
        raise ConfigError(
            'norm_cfg must be a batch norm that keeps running statistics, such as '
            "dict(type='BN') or dict(type='SyncBN'), since nothing else can be fused "
            f'into a conv, but got {cfg!r}'
        )
    return norm


def _build_block(arch: Arch, layer: Layer, norm: Any, deploy: bool) -> RepVGGBlock:
    geometry = (
        layer.in_channels,
        layer.out_channels,
        layer.stride,
        layer.dilation,
        layer.groups,
    )
    conv: nn.Module
    if deploy:
        conv = conv3x3(*geometry, bias=True)
    else:
        conv = RepConv(*geometry, identity=layer.identity, norm=norm)
    return RepVGGBlock(conv, SqueezeExcite(layer.out_channels) if arch.se else None)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Of the first forward pass, and of the recomputed one."""
    return nullcontext(), _running_stats_kept(block)


@contextmanager
def _running_stats_kept(block: nn.Module) -> Iterator[None]:
    """Let a recomputed forward pass update copies of the running statistics.

    The first pass has updated them already; the same batch must not count twice.
    """
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        for name, buffer in norm._buffers.items():
            norm._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept):
            norm._buffers.update(buffers)
