"""The global batch size of a training, and the learning rate for it."""

from __future__ import annotations

from mmengine.config import Config

from ..errors import ConfigError
from ..registry_types import is_a
from .processes import count_processes


def scale_learning_rate(cfg: Config) -> None:
    """Scale the learning rate by the global batch size over that of the recipe.

    Args:
        cfg: A training config; changed in place. The Runner does the scaling.

    Raises:
        ConfigError: If the config has no batch size that its learning rate is meant for.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ConfigError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: the '
            'global batch size that its learning rate is meant for'
        )
    cfg.auto_scale_lr.enable = True


def accumulate(cfg: Config, global_batch: int) -> None:
    """Give each process its share of a global batch, in parts that fit.

    Args:
        cfg: A training config; changed in place. ``train_dataloader.batch_size`` says how
            many images fit in a process at once.
        global_batch: Images per optimizer step over all processes.

    Raises:
        ConfigError: If the batch cannot be dealt in equal parts, or the config trains by
            another loop than mmengine's by iterations.
    """
    loop = cfg.train_cfg
    known = is_a(loop, 'IterBasedTrainLoop', 'AccumulatingTrainLoop')
    # Without a type, by_epoch chooses one of mmengine's loops.
    if not known and loop.get('by_epoch') is not False:
        raise ConfigError(
            "--global-batch needs a config with train_cfg type 'IterBasedTrainLoop', "
            f'got train_cfg={dict(loop)}'
        )
    processes, fits = count_processes(cfg), cfg.train_dataloader.get('batch_size', 1)
    share, rest = divmod(global_batch, processes)
    if global_batch < 1 or rest or share % min(share, fits):
        raise ConfigError(
            f'--global-batch {global_batch} cannot be dealt to {processes} processes in '
            f'equal parts of train_dataloader.batch_size={fits} images'
        )
    loop.type = 'AccumulatingTrainLoop'
    loop.pop('by_epoch', None)
    cfg.train_dataloader.batch_size = share
    cfg.optim_wrapper.accumulative_counts = share // min(share, fits)


def batch_warnings(cfg: Config, world_size: int) -> list[str]:
    """Return a warning if the learning rate is meant for another global batch size.

    Args:
        cfg: A training config.
        world_size: The number of processes.
    """
    recipe = cfg.get('auto_scale_lr') or {}
    batch = cfg.train_dataloader.get('batch_size', 1) * world_size
    if not is_a(cfg.train_cfg, 'AccumulatingTrainLoop'):
        batch *= cfg.optim_wrapper.get('accumulative_counts', 1)
    base = recipe.get('base_batch_size', batch)
    if batch == base or recipe.get('enable'):
        return []
    return [
        f'the global batch size is {batch}, the learning rate is meant for {base}: '
        f'--global-batch {base} keeps it by accumulating gradients, --auto-scale-lr '
        'scales the learning rate'
    ]


def images_at_once(cfg: Config) -> int:
    """Return how many images a process passes through the model at once."""
    batch = cfg.train_dataloader.get('batch_size', 1)
    if is_a(cfg.train_cfg, 'AccumulatingTrainLoop'):
        batch //= cfg.optim_wrapper.get('accumulative_counts', 1)
    return batch
