"""Preparing a config for training."""

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoints.loading import find_resumable
from ..checkpoints.mmengine_patch import make_loading_safe, read_ahead
from ..datasets.checks import check_dataset, leaf_datasets
from ..errors import ConfigError, TrainingError
from ..hooks import LoadHook
from ..registry_types import is_a, type_name
from .accumulation import accumulate, batch_warnings
from .config import add_missing_hook
from .config_checks import (
    TRAIN_KEYS,
    check_backbone,
    check_classes,
    check_keys,
    check_norms,
    check_same_classes,
)
from .precision import use_amp
from .processes import check_launcher
from .work_dir_lock import lock_work_dir


def prepare_training(
    cfg: Config,
    *,
    amp: str | None = None,
    auto_scale_lr: bool = False,
    global_batch: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust: bool = False,
) -> str | None:
    """Set a config up for training, and check it and its data.

    Nothing is added but LoadHook, which refuses a checkpoint that does not fit the model.

    Args:
        cfg: From :func:`~mmseg_repvgg.engine.config.load_config`; changed in place.
        amp: Mixed precision, see :func:`~.precision.use_amp`, if the option was given.
        auto_scale_lr: Scale the learning rate by the global batch size over that of the
            recipe.
        global_batch: Images per optimizer step over all processes. Gradients are
            accumulated if these do not fit in them at once.
        resume: Continue from the latest checkpoint in the work dir, if there is one.
        overwrite: Train although the work dir holds the training of another config.
        trust: Unpickle whatever a checkpoint holds.

    Returns:
        The checkpoint to resume from, if there is one, for
        :func:`~mmseg_repvgg.engine.runner.build_runner`. It is not put into the config,
        which the run writes into its work dir, and which may start another.

    Raises:
        ConfigError: If the config lacks what an option needs.
        CheckpointError: If the checkpoint to start from cannot be read.
        DataError: If data is missing.
        TrainingError: If another training runs in the work dir, or it holds that of
            another config.
    """
    check_launcher(cfg)
    check_keys(cfg, TRAIN_KEYS, 'a train loop')
    if amp is not None:
        use_amp(cfg, amp)
    if global_batch is not None:
        accumulate(cfg, global_batch)
    if auto_scale_lr:
        # The Runner does the scaling.
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ConfigError(
                '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: the '
                'global batch size that its learning rate is meant for'
            )
        # The config of an earlier run is scaled already.
        if not cfg.auto_scale_lr.get('enable'):
            cfg.auto_scale_lr.enable = True
            if not is_a(cfg.train_cfg, 'AccumulatingTrainLoop'):
                # mmengine leaves out that gradients are accumulated over several batches.
                parts = cfg.optim_wrapper.get('accumulative_counts', 1)
                cfg.auto_scale_lr.base_batch_size /= parts
    add_missing_hook(cfg, LoadHook, strict=False)
    make_loading_safe(trust)
    lock_work_dir(cfg)
    start, resumes, found = cfg.get('load_from'), cfg.get('resume'), None
    if resume or (resumes and not start):
        # The checkpoints of this run take precedence over the one that it started from.
        found = find_resumable(cfg.work_dir, trust)
        if found is None:
            print_log(
                f'there is no checkpoint in {cfg.work_dir}: the training starts anew',
                'current',
                logging.WARNING,
            )
        start, resumes, cfg.resume = found or start, found is not None, False
    elif not overwrite and not resumes:
        _require_own_work_dir(cfg)
    if start and '://' not in start:
        checkpoint = read_ahead(start, trust=trust)
        if resumes:
            meta = checkpoint.get('meta', {})
            _warn_of_another_schedule(cfg, checkpoint, start)
            done = meta.get('iter', 0)
            if done >= (cfg.train_cfg.get('max_iters') or math.inf):
                print_log(f'the training is complete: {done} iterations', 'current')
            if (seed := meta.get('seed')) is not None:
                # mmengine would set it only after the sampler is built.
                cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    init = cfg.model.get('backbone', {}).get('init_cfg')
    if isinstance(init, Mapping) and 'type' not in init:
        raise ConfigError(
            f'model.backbone.init_cfg has no type, only {", ".join(init)}: for weights '
            'from a file, add model.backbone.init_cfg.type=Pretrained'
        )
    for loader in ('train_dataloader', 'val_dataloader'):
        if cfg.get(loader):
            check_dataset(cfg[loader].dataset)
    check_backbone(cfg)
    check_classes(cfg)
    check_same_classes(cfg)
    check_norms(cfg)
    return found


def _require_own_work_dir(cfg: Config) -> None:
    """Refuse a work dir with the training of a config of another name."""
    own = os.path.join(cfg.work_dir, os.path.basename(cfg.filename or 'config.py'))
    trained = os.path.exists(os.path.join(cfg.work_dir, 'last_checkpoint'))
    if trained and not os.path.exists(own):
        raise TrainingError(
            f'the work dir {cfg.work_dir} holds the training of another config. Choose '
            'another --work-dir, or replace it with --overwrite'
        )


def _warn_of_another_schedule(
    cfg: Config, checkpoint: Mapping[str, Any], start: str
) -> None:
    """Warn that mmengine resumes with the learning rate and schedule of a checkpoint."""
    groups = checkpoint.get('optimizer', {}).get('param_groups', [])
    rates = {group.get('initial_lr', group.get('lr')) for group in groups}
    rate = cfg.optim_wrapper.get('optimizer', {}).get('lr')
    changes = []
    scaled = (cfg.get('auto_scale_lr') or {}).get('enable')
    if rates and rate not in rates and not scaled:
        changes.append(f'the learning rate {rate}')
    kept = checkpoint.get('param_schedulers') or []
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, Mapping) else schedulers
    for state, given in zip(kept, schedulers):
        end = given.get('end')
        if not given.get('by_epoch', True) and end not in (None, state.get('end')):
            changes.append(f'{type_name(given)} to iteration {end}, not {state["end"]}')
    if changes:
        print_log(
            f'--resume keeps the schedule of the checkpoint, and leaves out that of the '
            f'config: {", ".join(changes)}. For another schedule, start a new training '
            f'with load_from={start}',
            'current',
            logging.WARNING,
        )


def recipe_warnings(cfg: Config, resumed: bool = False) -> list[str]:
    """Return warnings about departures from the recipe that no option asked for."""
    warnings = batch_warnings(cfg) + check_classes(cfg)
    backbone = cfg.model.get('backbone', {})
    init = backbone.get('init_cfg')
    pretrained = isinstance(init, Mapping) and init.get('checkpoint')
    datasets = leaf_datasets(cfg.train_dataloader.dataset)
    if (
        any(is_a(dataset, 'CityscapesDataset') for dataset in datasets)
        and is_a(cfg.optim_wrapper.optimizer, 'SGD')
        and is_a(backbone, 'RepVGG')
        and not (pretrained or cfg.get('load_from') or resumed)
    ):
        warnings.append(
            'the backbone starts from random weights, but the paper starts from '
            'ImageNet: --cfg-options model.backbone.init_cfg.type=Pretrained '
            'model.backbone.init_cfg.checkpoint=FILE'
        )
    return warnings
