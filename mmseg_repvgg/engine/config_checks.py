"""Checks of a config before a training starts."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from ..datasets.checks import build_if_local, leaf_datasets
from ..errors import ConfigError
from ..models import RepVGG
from ..models.archs import get_arch
from ..registry_types import is_a, type_name
from .accumulation import images_at_once
from .processes import count_processes

# Heads that normalise what they pool to a single pixel.
_POOLING_HEADS = (
    *('PSPHead', 'UPerHead', 'APCHead'),
    *('ASPPHead', 'DepthwiseSeparableASPPHead'),
)


TRAIN_KEYS = ('train_dataloader', 'train_cfg', 'optim_wrapper')
TEST_KEYS = ('test_dataloader', 'test_cfg', 'test_evaluator')


def check_keys(cfg: Config, keys: Iterable[str], user: str) -> None:
    """Check that a config has the keys that ``user``, such as a loop, needs.

    Raises:
        ConfigError: If a key is missing or None.
    """
    for key in keys:
        if cfg.get(key) is None:
            raise ConfigError(f'the config has no {key}, which {user} needs')


def check_classes(cfg: Config) -> list[str]:
    """Compare the number of classes of each head with that of the training set.

    Returns:
        A warning for each head that has more classes than the data.

    Raises:
        ConfigError: If a head has fewer.
    """
    warnings = []
    for part in leaf_datasets(cfg.train_dataloader.dataset):
        dataset = build_if_local(part)
        if dataset is None:
            continue
        classes = len(dataset.metainfo.get('classes') or ())
        for name, head in class_heads(cfg.model) if classes else ():
            mismatch = (
                f'{name}.num_classes is {head["num_classes"]}, but {type_name(part)} has '
                f'{classes} classes'
            )
            if head['num_classes'] < classes:
                raise ConfigError(f'{mismatch}: set it to {classes}')
            if head['num_classes'] > classes:
                warnings.append(f'{mismatch}: the others do not occur in training')
    return list(dict.fromkeys(warnings))


def check_backbone(cfg: Config) -> None:
    """Check that a config of another backbone was changed to RepVGG whole.

    Arguments of the other backbone must be gone, and heads must take RepVGG's channels.
    A model with a neck is not checked for the latter.

    Raises:
        ConfigError: If something is left.
    """
    backbone = cfg.model.get('backbone') or {}
    if not is_a(backbone, 'RepVGG'):
        return
    if cfg.model.get('pretrained'):
        raise ConfigError(
            'model.pretrained names weights of another backbone: set it to None, and '
            'name those of RepVGG in model.backbone.init_cfg'
        )
    known = inspect.signature(RepVGG).parameters
    if unknown := [key for key in backbone if key not in {'type', '_scope_', *known}]:
        raise ConfigError(
            f'RepVGG takes no {", ".join(unknown)}, but {", ".join(known)}. To drop the '
            'arguments of another backbone, set _delete_=True in model.backbone'
        )
    if cfg.model.get('neck'):
        return
    arch = backbone.get('arch', known['arch'].default)
    widths = [stage[-1] for stage in get_arch(arch).channels[1:]]
    given = [widths[i] for i in backbone.get('out_indices', range(4)) if i in range(4)]
    for name, head in model_heads(cfg.model):
        index, taken = head.get('in_index', -1), head.get('in_channels')
        if not isinstance(index, int) or index not in range(-len(given), len(given)):
            continue
        if isinstance(taken, int) and taken != given[index]:
            raise ConfigError(
                f'{name}.in_channels is {taken}, but output {index} of the backbone has '
                f'{given[index]} channels: set it to {given[index]}'
            )


def check_same_classes(cfg: Config) -> None:
    """Check that training and validation set have the same number of classes.

    Raises:
        ConfigError: If they have not.
    """
    counts = {
        name: count
        for name in ('train_dataloader', 'val_dataloader')
        for part in leaf_datasets((cfg.get(name) or {}).get('dataset', {}))
        # An empty data set is false.
        if (dataset := build_if_local(part)) is not None
        and (count := len(dataset.metainfo.get('classes') or ()))
    }
    if len(set(counts.values())) > 1:
        raise ConfigError(
            'the data sets must have the same classes, but have '
            + ' and '.join(f'{count} in {name}' for name, count in counts.items())
        )


def check_norms(cfg: Config) -> None:
    """Check that no batch norm of a head would see a single value of each channel.

    This happens with one image at once where the map is pooled to 1x1, as in PSPNet. A
    config that imports other code is not checked, since a hook may freeze the norms.

    Raises:
        ConfigError: If a batch norm would see a single value.
    """
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else imports
    if images_at_once(cfg) > 1 or any('mmseg_repvgg' not in name for name in imports):
        return
    synced = count_processes(cfg) > 1 and get_device() != 'cpu'
    norms = ('BN',) if synced else ('BN', 'SyncBN')
    for name, head in model_heads(cfg.model):
        pools = is_a(head, *_POOLING_HEADS) and 1 in head.get('pool_scales', (1,))
        if pools and is_a(head.get('norm_cfg') or {}, *norms):
            raise ConfigError(
                f'{name} would normalise a single value of each channel, because a '
                'process trains on one image at once: set train_dataloader.batch_size to '
                '2 or more'
            )


def model_heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the config of each head."""
    for key in ('decode_head', 'auxiliary_head'):
        heads = model.get(key) or []
        several = isinstance(heads, (list, tuple))
        for index, head in enumerate(heads if several else [heads]):
            yield f'model.{key}[{index}]' if several else f'model.{key}', head


def class_heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the config of each head that tells the classes of the data."""
    for name, head in model_heads(model):
        # STDCHead has two classes: the edges of objects and the rest.
        if 'num_classes' in head and not is_a(head, 'STDCHead'):
            yield name, head
