"""Hook that loads a checkpoint whole or refuses it."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS
from torch import Tensor, nn

from ..checkpoints.key_names import recognise
from ..checkpoints.loading import naming_checkpoint, trained_backbone
from ..checkpoints.state_dict import describe_mismatch, extract_state_dict
from ..errors import CheckpointError
from ..models import RepVGG
from ..models.archs import DILATIONS, plan
from ..models.wrappers import strip_wrappers
from ..registry_types import is_a, type_name
from ..reparam.formulas import parse


@HOOKS.register_module()
class LoadHook(Hook):
    """Hook that renames a checkpoint's tensors to the model's and checks that they fit.

    mmengine loads with ``strict=False`` and only logs what did not match. A test or a
    resumed training always needs a checkpoint that fills the whole model and was trained
    with the same dilation, since the weights of another dilation fit another network.

    Args:
        strict: Whether ``load_from`` of a training has to fill the whole model too. If
            not, it has to fill the backbone, so that heads may have other classes, and
            another dilation is only a warning.

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape or kind,
            or if the checkpoint was trained with another dilation or block.
    """

    # EMAHook copies what was loaded, so this has to come first.
    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Rename and check the tensors before any is copied."""
        # Only the loops of the current run are built, the others are configs.
        training = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        strict = self.strict or not training
        with naming_checkpoint(runner._load_from):
            fit_checkpoint(checkpoint, runner.model, strict=strict)


def fit_checkpoint(checkpoint: dict[str, Any], model: nn.Module, *, strict: bool) -> None:
    """Rename a checkpoint's tensors to a segmentor's and check that they fit.

    The ``state_dict`` of the checkpoint is replaced. ``strict`` and errors are those of
    :class:`LoadHook`; the model may be in a wrapper.
    """
    model = strip_wrappers(model)
    state = extract_state_dict(checkpoint)
    for name, module in model.named_modules():
        if not isinstance(module, RepVGG):
            continue
        # The checkpoint's config does not describe others, such as a teacher's.
        if name == 'backbone':
            found = recognise(state, module.own_keys())
            # mmpretrain's own RepVGG has neither a dilation nor blocks of other kinds.
            if found and found.layout == 'mmseg_repvgg':
                trained = trained_backbone(checkpoint)
                _check_dilation(module, trained, strict)
                # Some blocks have the same keys, but fused ones are all alike.
                if found.form == 'training':
                    _check_block(module, trained)
        state = _rename(state, module, f'{name}.' if name else '')
    checkpoint['state_dict'] = state
    if strict:
        _require_match(state, model.state_dict())


def _check_dilation(backbone: RepVGG, trained: Mapping[str, Any], strict: bool) -> None:
    own = type(backbone)
    # A subclass is known by its bare name.
    subclass = own is not RepVGG and type_name(trained) == own.__name__
    default = inspect.signature(RepVGG).parameters['dilation'].default
    dilation = trained.get('dilation', default)
    if dilation not in DILATIONS or not (subclass or is_a(trained, 'RepVGG')):
        return
    built = max(backbone.out_indices) + 2
    before, now = (plan(backbone.arch, d)[:built] for d in (dilation, backbone.dilation))
    if before == now:
        return
    message = (
        f'the checkpoint was trained with dilation={dilation!r}, but the config builds '
        f'dilation={backbone.dilation!r}, which is another network'
    )
    if strict:
        raise CheckpointError(
            f'{message}. Use the config that it was trained with, or --cfg-options '
            f'model.backbone.dilation={dilation}; to use another dilation on purpose, '
            'convert the checkpoint to .safetensors, which keeps no config'
        )
    print_log(message, 'current', logging.WARNING)


def _check_block(backbone: RepVGG, trained: Mapping[str, Any]) -> None:
    block = trained.get('block', 'repvgg')
    if is_a(trained, 'RepVGG') and parse(block) != parse(backbone.block):
        raise CheckpointError(
            f'the checkpoint was trained with block={block!r}, but the config builds '
            f'block={backbone.block!r}. Use the config that it was trained with, or '
            f'--cfg-options model.backbone.block={block!r}'
        )


def _rename(state: dict[str, Any], backbone: RepVGG, prefix: str) -> dict[str, Any]:
    """Put the tensors of the backbone under its prefix and keep all others."""
    inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    outside = {k: v for k, v in state.items() if not k.startswith(prefix)}
    if recognise(inside, backbone.own_keys()) is None:
        # The file is of a backbone alone, or of another project's classifier.
        inside, outside = state, {}
    tensors = backbone.adapt_state_dict(inside)
    return {**outside, **{prefix + key: value for key, value in tensors.items()}}


def _require_match(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = [key for key in wanted if key not in found]
    heads = sorted({key.partition('.')[0] for key in missing})
    if heads and all(key.startswith('backbone.') for key in found):
        raise CheckpointError(
            f'the checkpoint holds a backbone alone: {" and ".join(heads)} would keep '
            'random weights. Use a checkpoint of the whole model, or train from this one '
            'with --cfg-options model.backbone.init_cfg.type=Pretrained '
            'model.backbone.init_cfg.checkpoint=FILE'
        )
    if mismatch := describe_mismatch(found, wanted):
        raise CheckpointError(
            f'the checkpoint does not fit the model: {mismatch}. Use the config that it '
            'was trained with'
        )
