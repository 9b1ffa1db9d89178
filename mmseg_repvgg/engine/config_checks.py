"""Checks of a config that are cheap before a training starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..datasets.nested import can_wait, innermost, lazily
from ..errors import ConfigError
from ..registry_types import is_a, kind_of
from .batches import count_processes, images_at_once


def check_keys(cfg: Config, loop: str) -> None:
    """Check that a config has what a loop is built from.

    Args:
        cfg: The config.
        loop: ``'train'`` or ``'test'``.

    Raises:
        ConfigError: If a key is missing or None.
    """
    last = 'optim_wrapper' if loop == 'train' else f'{loop}_evaluator'
    for key in (f'{loop}_dataloader', f'{loop}_cfg', last):
        if cfg.get(key) is None:
            raise ConfigError(f'the config has no {key}, from which a {loop} is built')


def check_classes(cfg: Config) -> list[str]:
    """Compare the number of classes of each head with that of the training set.

    Args:
        cfg: Of a training.

    Returns:
        A warning for each head that has more classes than the data.

    Raises:
        ConfigError: If a head has fewer.
    """
    warnings = []
    for part in innermost(cfg.train_dataloader.dataset):
        if not can_wait(part) or part.get('backend_args'):
            continue
        classes = len(lazily(part).metainfo.get('classes') or ())
        for name, head in _heads(cfg.model):
            # STDCHead's classes are the edges of objects and the rest.
            if 'num_classes' not in head or not classes or is_a(head, 'STDCHead'):
                continue
            said = (
                f'{name}.num_classes is {head["num_classes"]}, but {kind_of(part)} has '
                f'{classes} classes'
            )
            if head['num_classes'] < classes:
                raise ConfigError(f'{said}: set it to {classes}')
            if head['num_classes'] > classes:
                warnings.append(f'{said}: the others are never seen in training')
    return list(dict.fromkeys(warnings))


def _heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key in ('decode_head', 'auxiliary_head'):
        heads = model.get(key) or []
        several = isinstance(heads, (list, tuple))
        for index, head in enumerate(heads if several else [heads]):
            yield f'model.{key}[{index}]' if several else f'model.{key}', head


def check_norms(cfg: Config) -> None:
    """Check that each batch norm sees more than one value of a channel.

    With one image at once it sees a single one where a map is pooled to 1x1, as PSPNet
    does. The model is built and run on the meta device, where nothing is computed. A
    model that does not run there is not checked, nor is a config that imports code of
    others, such as a hook that freezes norms.

    Args:
        cfg: Of a training.

    Raises:
        ConfigError: If a batch norm would see a single value.
    """
    if images_at_once(cfg) > 1 or _imports_foreign_code(cfg):
        return
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    size = (cfg.model.get('data_preprocessor') or {}).get('size') or (512, 512)
    channels = (cfg.model.get('backbone') or {}).get('in_channels', 3)
    synced = count_processes(cfg) > 1 and get_device() != 'cpu'
    try:
        with torch.device('meta'):
            model = _watched(MODELS.build(cfg.model), synced)
            model.train()
            image = torch.empty(1, channels, *size)
            model(image, mode='tensor')
            if model.with_auxiliary_head:
                heads = model.auxiliary_head
                features = model.extract_feat(image)
                for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                    head(features)
    except ConfigError:
        raise
    except Exception:  # What is wrong with the model shows when the Runner builds it.
        return


def _imports_foreign_code(cfg: Config) -> bool:
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    names = [imports] if isinstance(imports, str) else imports
    return not all(name.startswith('mmseg_repvgg') for name in names)


def _watched(model: nn.Module, synced: bool) -> Any:
    """Have the batch norms refuse a single value, except SyncBN where it is synced."""
    own = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    model = revert_sync_batchnorm(model)

    def refuse(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training and inputs[0].numel() == inputs[0].shape[1]:
            raise ConfigError(
                f'{name} is a batch norm that would see a single value of each channel, '
                'because a process trains on one image at once: set '
                'train_dataloader.batch_size to 2 or more'
            )

    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (name in own or not synced):
            module.register_forward_pre_hook(partial(refuse, name))
    return model
