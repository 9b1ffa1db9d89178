"""The RepVGG backbone for MMSegmentation.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021,
https://arxiv.org/abs/2101.03697.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..checkpoints.key_names import to_native
from ..checkpoints.loading import naming_checkpoint
from ..checkpoints.mmengine_patch import loading_safely
from ..checkpoints.state_dict import describe_mismatch, extract_state_dict
from ..errors import CheckpointError, ConfigError
from ..reparam import deploy, is_deployed
from ..reparam.formulas import parse
from ..reparam.recomputing import run_recomputed
from .archs import Arch, get_arch, is_count, plan
from .stages import build_slot, build_stage

NUM_STAGES = 4
_MISFIT = 'the checkpoint does not fit the RepVGG backbone'


@MODELS.register_module()
class RepVGG(BaseModule):
    """RepVGG backbone: stage 1 (the stem) to stage 5, without the classifier.

    Args:
        arch: A name (A0 A1 A2 B0 B1 B2 B3, each plain or with g2 or g4 appended; D2se) or
            a dict of the fields of :class:`~mmseg_repvgg.models.archs.Arch`.
        dilation: ``'full'`` dilates every 3x3 conv of the last two stages, for output
            stride 8. ``'fast'`` dilates only the last 5 layers, also for output stride 8.
            None dilates nothing, for output stride 32 (section 4.3).
        out_indices: The outputs to return. Output i is stage i + 2 of the paper. The
            strides are 4, 8, 8, 8, or 4, 8, 16, 32 without dilation.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n of the
            four stages behind it.
        norm_eval: Whether batch norms use their running statistics in training as well.
        with_cp: What the backward pass recomputes to save memory: True for whole
            blocks, ``'1x1'`` for the 1x1 convs, which is less work and saves less.
            Gradients and running statistics stay the same.
        norm_cfg: Config of a batch norm with running statistics (BN, SyncBN).
        in_channels: Channels of the image.
        deploy: Whether to build the fused form: one 3x3 conv with bias per block.
        init_cfg: Initialization; by default Kaiming for convs and ones for norms.
        block: The branches of a block in the training form, a name such as ``'qarepvgg'``
            or a formula such as ``'3x3-bn + 1x1-bn'``; docs/blocks.md has them all.
        residual: Whether to put the layers of stages 2 to 4 in pairs with the shortcuts
            of ResNet-18 (Table 7, residual reorganization). Shortcuts stay when fused.

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
        with_cp: bool | str = False,
        norm_cfg: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        deploy: bool = False,
        init_cfg: Any = None,
        block: str = 'repvgg',
        residual: bool = False,
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
                f'in_channels must be a positive integer, but got {in_channels!r}'
            )
        self.in_channels = in_channels
        self.out_indices = _check_out_indices(out_indices)
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= NUM_STAGES:
            raise ConfigError(
                f'frozen_stages must be from -1 (none) to {NUM_STAGES}, '
                f'but got {frozen_stages!r}'
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        if with_cp not in (False, True, '1x1'):
            raise ConfigError(
                f"with_cp must be False, True or '1x1', but got {with_cp!r}"
            )
        self.with_cp = with_cp
        self.norm_cfg = norm_cfg or dict(type='BN')
        self.block, self.residual = block, residual
        _check_block(block, deploy)

        (stem,), *rest = plan(self.arch, dilation, in_channels)
        self.out_channels = tuple(rest[i][-1].out_channels for i in self.out_indices)
        norm = partial(_build_norm, self.norm_cfg)
        slot = partial(
            build_slot, norm=norm, deploy=deploy, recompute_1x1=with_cp == '1x1'
        )
        (self.stem,) = build_stage([stem], slot, block, self.arch.se, residual=False)
        # Stages behind the last output would never run, so they are not built.
        for index, layers in enumerate(rest[: max(self.out_indices) + 1], start=1):
            paired = residual and index < NUM_STAGES
            stage = build_stage(layers, slot, block, self.arch.se, paired)
            self.add_module(f'stage_{index}', stage)
        self._freeze()

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The stem and the stages behind it that are built."""
        names = [f'stage_{index}' for index in range(1, max(self.out_indices) + 2)]
        return (self.stem, *(getattr(self, name) for name in names))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: Images, shape (B, in_channels, H, W).

        Returns:
            One map per index of ``out_indices``, shape (B, out_channels[i], H', W') with
            H' = ceil(H / stride) and W' = ceil(W / stride).
        """
        outputs = []
        # The stem, whose output is never returned, comes before stage 0. torch.compile of
        # torch 2.3 does not know the keyword `start`.
        for index, stage in enumerate(self.stages, -1):
            x = self._run(stage, x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.with_cp in (False, '1x1') or not self.training:
            return stage(x)
        # Each block is recomputed by itself, so only one block's maps exist at a time.
        for block in stage if isinstance(stage, nn.Sequential) else (stage,):
            x = run_recomputed(block, x)
        return x

    def train(self, mode: bool = True) -> 'RepVGG':
        """Set the mode, except of frozen stages and, with ``norm_eval``, of all norms."""
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
        """Initialize as ``init_cfg`` says; its checkpoint cannot run code.

        Raises:
            CheckpointError: If the checkpoint of ``init_cfg`` is refused or does not fit.
        """
        init_cfg: Any = self.init_cfg
        file = init_cfg.get('checkpoint') if isinstance(init_cfg, dict) else None
        with loading_safely(), naming_checkpoint(file):
            super().init_weights()

    @naming_checkpoint(_MISFIT)
    def adapt_state_dict(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn a state dict of any layout into one that fills this backbone exactly.

        A training-form state dict is fused if the backbone is. Stages behind the last
        output are dropped.

        Args:
            state_dict: The state dict of a backbone or of a model that contains one, in
                the layout of this project, the author, mmpretrain or timm.

        Raises:
            CheckpointError: If a tensor is missing, left over, or of another shape or
                dtype, or if the state dict is fused and the backbone is not.
        """
        native = to_native(state_dict, self.own_keys())
        form, fused = native.recognised.form, is_deployed(self)
        if form == 'fused' and not fused:
            raise CheckpointError(
                'it is fused, and the model is in the training form. To train, start '
                'from a training-form checkpoint; to evaluate, use mmseg-repvgg test or '
                '--cfg-options model.backbone.deploy=True'
            )
        backbone = {
            key: value
            for key, value in native.backbone.items()
            if hasattr(self, key.partition('.')[0])
        }
        if form == 'training' and fused:
            backbone = self._fuse(backbone)
        _require_match(backbone, self, form)
        print_log(
            f'RepVGG: {native.recognised.layout} layout, {form} form'
            f'{", fused on loading" if fused and form == "training" else ""}: '
            f'{len(backbone)} tensors for the backbone; ignored '
            f'{len(native.classifier)} of a classifier and {len(native.rest)} others',
            'current',
        )
        return backbone

    def _fuse(self, backbone: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fuse a training-form state dict as ``deploy`` fuses a model."""
        # On the meta device no memory is allocated and no initial weights are drawn.
        with torch.device('meta'):
            model = self.rebuild()
        _require_match(backbone, model, 'training')
        # The children's keys are the model's, and they do not adapt them again.
        children = nn.ModuleDict(dict(model.named_children()))
        children.load_state_dict(backbone, assign=True)
        return deploy(model).state_dict()

    def rebuild(self, **changes: Any) -> 'RepVGG':
        """Build this backbone again in the training form, with changed arguments."""
        arguments = dict(
            arch=self.arch,
            dilation=self.dilation,
            out_indices=self.out_indices,
            norm_cfg=self.norm_cfg,
            in_channels=self.in_channels,
            block=self.block,
            residual=self.residual,
        )
        return RepVGG(**{**arguments, **changes})

    def own_keys(self) -> list[str]:
        """Return the keys of both forms if the blocks are not RepVGG's, else none."""
        if self.block == 'repvgg' and not self.residual:
            return []
        forms = [False, True] if parse(self.block).fuses else [False]
        with torch.device('meta'):
            built = [self.rebuild(deploy=form) for form in forms]
        return [key for backbone in built for key in backbone.state_dict()]

    @naming_checkpoint(_MISFIT)
    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        # mmengine loads with strict=False, which ignores what does not match. All loading
        # passes through this method, so a backbone is loaded whole or not at all.
        own = [key for key in state_dict if key.startswith(prefix)]
        found = {key[len(prefix) :]: state_dict[key] for key in own}
        backbone = self.adapt_state_dict(extract_state_dict(found))
        for key in own:
            del state_dict[key]
        state_dict.update({prefix + key: value for key, value in backbone.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def _require_match(backbone: dict[str, Tensor], model: RepVGG, form: str) -> None:
    if mismatch := describe_mismatch(backbone, model.state_dict()):
        raise CheckpointError(
            f'it is in the {form} form, but of another arch, block or dtype ({mismatch})'
        )


def _check_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    given = tuple(out_indices) if isinstance(out_indices, Sequence) else ()
    allowed = tuple(range(NUM_STAGES))
    if not given or given != tuple(index for index in allowed if index in given):
        raise ConfigError(
            f'out_indices must be some of {allowed}, in ascending order, but got '
            f'{out_indices!r}'
        )
    return given


def _build_norm(cfg: Any, channels: int) -> nn.Module:
    norm = build_norm_layer(cfg, channels)[1]
    if getattr(norm, 'running_mean', None) is None:
        raise ConfigError(
            'norm_cfg must be a batch norm with running statistics, such as '
            "dict(type='BN') or dict(type='SyncBN'), to be fused into a conv, but got "
            f'{cfg!r}'
        )
    return norm


def _check_block(block: str, deploy: bool) -> None:
    formula = parse(block)
    if formula.kernel != (3, 3):
        raise ConfigError(f'block must have a branch with a 3x3 conv, but got {block!r}')
    if deploy and not formula.fuses:
        raise ConfigError(
            f'block={block!r} has no fused form, because of a ReLU in a branch: leave '
            'deploy out'
        )
