"""The hook by which a checkpoint is loaded whole or refused."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..checkpoints.key_names import recognise, unwrap
from ..checkpoints.provenance import trained_backbone
from ..errors import CheckpointError
from ..models import RepVGG
from ..models.archs import DILATIONS, plan
from ..models.wrappers import unwrap as unwrap_model
from ..registry_types import is_a, kind_of


@HOOKS.register_module()
class LoadHook(Hook):
    """Bring a checkpoint of any layout into the model's names, and check that it fits.

    mmengine loads with ``strict=False`` and only logs what did not match. When resuming
    or testing, a head left at random is never what anyone wants. Nor is another dilation
    than that of the training: the weights fit it, and mean something else.

    Args:
        strict: Whether the checkpoint must fill the whole model and be of its dilation,
            or, to fine-tune with other classes or from ImageNet weights, at least fill
            the backbone; another dilation is then a warning.

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape, or the
            checkpoint says that it was trained with another dilation.
    """

    # Before EMAHook takes its copy of what was loaded.
    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Rename and compare before anything is copied."""
        model = unwrap_model(runner.model)
        state = unwrap(checkpoint)
        for name, module in model.named_modules():
            if not isinstance(module, RepVGG):
                continue
            # Of others, such as a teacher's, the checkpoint's config says nothing.
            if name.removeprefix('module.') == 'backbone':
                self._check_dilation(module, trained_backbone(checkpoint))
            state = _renamed(state, module, f'{name}.' if name else '')
        checkpoint['state_dict'] = state
        if self.strict:
            _require_match(state, model.state_dict())

    def _check_dilation(self, backbone: RepVGG, trained: Mapping[str, Any]) -> None:
        own = type(backbone)
        # A child's name is enough; other projects have a RepVGG.
        child = own is not RepVGG and kind_of(trained) == own.__name__
        if not child and not is_a(trained, 'RepVGG'):
            return
        default = inspect.signature(RepVGG).parameters['dilation'].default
        of_training = trained.get('dilation', default)
        if of_training not in DILATIONS or not _differ(backbone, of_training):
            return
        said = (
            f'the checkpoint was trained with dilation={of_training!r}, and the config '
            f'builds {backbone.dilation!r}, which computes something else'
        )
        if self.strict:
            raise CheckpointError(
                f'{said}. Give the config that it was trained with, or --cfg-options '
                f'model.backbone.dilation={of_training}; to try the other one on '
                'purpose, convert it to .safetensors, which forgets its training'
            )
        print_log(f'{said} until it is trained on', 'current', logging.WARNING)


def _differ(backbone: RepVGG, dilation: str | None) -> bool:
    """Tell whether the layers that are there are others under another dilation."""
    built = max(backbone.out_indices) + 2
    here, there = (
        plan(backbone.arch, each)[:built] for each in (backbone.dilation, dilation)
    )
    return here != there


def _renamed(state: dict[str, Any], backbone: RepVGG, prefix: str) -> dict[str, Any]:
    """Put what fills the backbone under its prefix; the rest keeps its names."""
    inside = {k: v for k, v in state.items() if k.startswith(prefix)}
    if recognise(inside) is None:
        # A file of a backbone alone, or of another project's classifier.
        inside = state
        outside: dict[str, Any] = {}
    else:
        outside = {k: v for k, v in state.items() if k not in inside}
        inside = {k[len(prefix) :]: v for k, v in inside.items()}
    tensors, _ = backbone.adapt_state_dict(inside)
    return {**outside, **{prefix + key: value for key, value in tensors.items()}}


def _require_match(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    filled = {key.partition('.')[0] for key in found}
    missing = {key.partition('.')[0] for key in wanted if key not in found}
    if filled == {'backbone'} and missing and 'backbone' not in missing:
        raise CheckpointError(
            f'the checkpoint holds a backbone alone: {" and ".join(sorted(missing))} '
            'would be left at random. Give one of the whole model, or train from this '
            'one with --cfg-options model.backbone.init_cfg.type=Pretrained '
            'model.backbone.init_cfg.checkpoint=FILE'
        )
    problems = [f'{key} is missing' for key in wanted if key not in found]
    problems += [f'{key} is not in the model' for key in found if key not in wanted]
    problems += [
        f'{key} is {tuple(found[key].shape)} where the model has {tuple(value.shape)}'
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    problems += [
        f'{key} is {found[key].dtype} where the model has {value.dtype}'
        for key, value in wanted.items()
        if key in found and found[key].is_floating_point() != value.is_floating_point()
    ]
    if problems:
        raise CheckpointError(
            f'the checkpoint does not fit the model: {len(problems)} tensors differ, '
            f'{"; ".join(problems[:5])}. Give the config that it was trained with'
        )
