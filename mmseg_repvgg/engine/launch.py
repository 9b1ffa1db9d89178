"""From a config file and command-line choices to a Runner that can start.

The tools share what is here: it adapts a config to the machine, checks the input before
anything is built or written, and makes every evaluation a fused one.
"""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from mmseg.registry import HOOKS, RUNNERS

from ..checkpoints.files import read_checkpoint
from ..checkpoints.key_names import unwrap
from ..checkpoints.loading import find_resumable, naming_checkpoint
from ..checkpoints.mmengine_patch import make_loading_safe
from ..datasets.checked_loading import check_loading
from ..datasets.checks import check_dataset
from ..datasets.nested import innermost
from ..errors import ConfigError, WriteError
from ..hooks.screen import build_quietly
from ..registry_types import is_a
from .batches import accumulate, batch_warnings, scale_learning_rate
from .config_checks import check_classes, check_keys, check_norms
from .gloo import start_gloo
from .leaderboard import write_label_ids
from .match_form import match_form
from .precision import use_amp
from .visualization import add_visualizer, drop_missing_tensorboard, watch
from .work_dir_lock import lock_work_dir

_HOOKS = (
    'DeployHook',
    'FiniteHook',
    'IterationSeedHook',
    'MeanLossHook',
    'SameBuffersHook',
    'TerminationHook',
)
# mmengine takes None for these, to leave them out, and for no others.
_MMENGINE_HOOKS = 'runtime_info timer sampler_seed logger param_scheduler checkpoint'


def load_config(args: Namespace) -> Config:
    """Read a config file and apply what the command line says.

    Args:
        args: ``config``, the file; ``work_dir``, where logs and checkpoints go, by
            default what the config says, else ``work_dirs/NAME_OF_CONFIG``;
            ``cfg_options``; and of tools for several processes ``launcher`` and
            ``local_rank``.

    Raises:
        ConfigError: If there is no such file, it is none of a config, or the options
            don't fit it.
    """
    path = args.config
    if os.path.isdir(path):
        raise ConfigError(f'the config {path} is a folder; give one of the files in it')
    if not os.path.isfile(path):
        raise ConfigError(f'the config file {path} does not exist or is not regular')
    if Path(path).suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise ConfigError(
            f'{path} is no config file, which ends in .py: are two arguments swapped?'
        )
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, FileNotFoundError) as error:
        raise ConfigError(f'the config {path} cannot be read: {error}') from error
    cfg.default_hooks = cfg.get('default_hooks') or {}
    cfg.load_from, cfg.resume = cfg.get('load_from'), cfg.get('resume', False)
    if cfg.get('data_preprocessor'):
        # A Runner does the same, but not every tool has one.
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    # What is added to a config is named without a scope; lazy ones have none.
    cfg.default_scope = cfg.get('default_scope') or 'mmseg'
    cfg.launcher = getattr(args, 'launcher', 'none')
    os.environ.setdefault('LOCAL_RANK', str(getattr(args, 'local_rank', 0)))
    try:
        cfg.merge_from_dict(args.cfg_options or {})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f'--cfg-options does not fit {path}: {error.args[0]}'
        ) from error
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(path).stem)
    return cfg


def prepare_training(
    cfg: Config,
    *,
    amp: str | None = None,
    auto_scale_lr: bool = False,
    global_batch: int | None = None,
    resume: bool = False,
    trust: bool = False,
) -> None:
    """Set a config up for training, and check what it will read.

    Args:
        cfg: From :func:`load_config`; changed in place.
        amp: Train in mixed precision: ``float16``, with loss scaling, ``bfloat16``, or
            ``auto``, where this machine gains by it. None leaves it to the config.
        auto_scale_lr: Scale the learning rate by the global batch size over that of the
            recipe.
        global_batch: Images per step of the optimizer over all processes; what does not
            fit in them at once is accumulated.
        resume: Go on from the latest checkpoint in the work dir, if there is one.
        trust: Unpickle whatever a checkpoint holds.

    Raises:
        ConfigError: If the config has not what a choice needs.
        CheckpointError: If a checkpoint to start from cannot be read.
        DataError: If data is missing.
        TrainingError: If another training is at work in the work dir.
    """
    check_keys(cfg, 'train')
    if amp is not None:
        use_amp(cfg, amp)
    if auto_scale_lr:
        scale_learning_rate(cfg)
    if global_batch is not None:
        accumulate(cfg, global_batch)
    for kind in _HOOKS:
        set_hook(cfg, kind, True)
    watch(cfg)
    # mmengine's default.
    cfg.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    saving = cfg.default_hooks.checkpoint
    if saving and is_a(saving, 'CheckpointHook') and not saving.get('backend_args'):
        saving.type = 'CrashSafeCheckpointHook'
    make_loading_safe(trust)
    for loader in ('train_dataloader', 'val_dataloader'):
        if cfg.get(loader):
            cfg[loader].setdefault('worker_init_fn', dict(type='init_worker'))
    lock_work_dir(cfg)
    if resume:
        # What this run has saved comes before what it started from.
        found = find_resumable(cfg.work_dir, trust)
        cfg.load_from = found or cfg.get('load_from')
        cfg.resume = found is not None
    elif cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = find_resumable(cfg.work_dir, trust)
        cfg.resume = cfg.load_from is not None
    if cfg.resume:
        # The config may be the dump of the run that began, which was not strict.
        set_hook(cfg, 'LoadHook', False)
    set_hook(cfg, 'LoadHook', True, strict=cfg.resume)
    for start in (cfg.get('load_from'), _pretrained(cfg)):
        if start and '://' not in start:
            with naming_checkpoint(start):
                checkpoint = read_checkpoint(start, trust=trust)
                unwrap(checkpoint)
            if cfg.resume:
                _keep_seed(cfg, checkpoint)
    _check_data(cfg, 'train_dataloader', 'val_dataloader')
    check_classes(cfg)
    check_norms(cfg)


def prepare_testing(
    cfg: Config,
    checkpoint: str,
    *,
    out: str | None = None,
    format_only: bool = False,
    split: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    fused: bool = True,
    engine: str | None = None,
    trust: bool = False,
) -> None:
    """Set a config up for testing a checkpoint, and check what it will read.

    Args:
        cfg: From :func:`load_config`; changed in place.
        checkpoint: The file to test.
        out: Folder for the predicted label maps, if they are wanted.
        format_only: Do not evaluate, but write label maps as the Cityscapes server takes
            them.
        split: With ``format_only``, of which images: ``val`` or, by default, ``test``.
        show_dir: Folder for painted images, if they are wanted.
        tta: Average over the views of the config's ``tta_pipeline``.
        fused: Whether to evaluate the fused model, or else the training form.
        engine: What computes the fused model, see :func:`~mmseg_repvgg.deploy`; by
            default what the config's ``DeployHook`` says.
        trust: Unpickle whatever the checkpoint holds.

    Raises:
        ConfigError: If the config has not what a choice needs.
        CheckpointError: If the checkpoint cannot be read.
        DataError: If data is missing.
    """
    check_keys(cfg, 'test')
    make_loading_safe(trust)
    if not fused and cfg.model.get('backbone', {}).get('deploy'):
        raise ConfigError(
            'the config builds the fused form, model.backbone.deploy=True: there is no '
            'training form of it, for --no-deploy or to compare with. Leave that out'
        )
    with naming_checkpoint(checkpoint):
        match_form(cfg, read_checkpoint(checkpoint, trust=trust))
    if not fused and cfg.model.get('backbone', {}).get('deploy'):
        raise ConfigError(
            f'{checkpoint} is fused: there is no training form of it, for --no-deploy or '
            'to compare with. Give the checkpoint that it was made from'
        )
    cfg.load_from = checkpoint
    cfg.resume = False
    set_hook(cfg, 'DeployHook', fused)
    # A config's own may be one for fine-tuning, which leaves heads at random.
    set_hook(cfg, 'LoadHook', False)
    set_hook(cfg, 'LoadHook', True)
    for hook in cfg.custom_hooks:
        if engine is not None and _is_hook(hook, 'DeployHook'):
            hook['engine'] = engine
    if out is not None and not format_only:
        evaluators = cfg.test_evaluator
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            evaluator['output_dir'] = out
    if show_dir is not None:
        cfg.default_hooks.visualization = dict(
            type='SegVisualizationHook', draw=True, interval=1
        )
        add_visualizer(cfg)
        cfg.visualizer.save_dir = show_dir
    if tta:
        if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
            raise ConfigError('--tta needs tta_pipeline and tta_model in the config')
        for part in innermost(cfg.test_dataloader.dataset):
            part.pipeline = cfg.tta_pipeline
        cfg.model = {**cfg.tta_model, 'module': cfg.model}
    if format_only:
        if out is None:
            raise ConfigError('--format-only needs --out: the folder for the files')
        write_label_ids(cfg, out, split or 'test')
    elif split is not None:
        raise ConfigError(
            '--split is for --format-only: what is evaluated, the config says'
        )
    _check_data(cfg, 'test_dataloader')


def recipe_warnings(cfg: Config, world_size: int) -> list[str]:
    """Say where a training departs from its recipe without having been told to."""
    warnings = batch_warnings(cfg, world_size) + check_classes(cfg)
    backbone = cfg.model.get('backbone', {})
    if (
        any(
            is_a(part, 'CityscapesDataset')
            for part in innermost(cfg.train_dataloader.dataset)
        )
        and is_a(cfg.optim_wrapper.optimizer, 'SGD')
        and is_a(backbone, 'RepVGG')
        and not (_pretrained(cfg) or cfg.get('load_from') or cfg.resume)
    ):
        warnings.append(
            'the backbone starts from random weights, where the paper starts from '
            'ImageNet: --cfg-options model.backbone.init_cfg.type=Pretrained '
            'model.backbone.init_cfg.checkpoint=FILE'
        )
    return warnings


def _keep_seed(cfg: Config, checkpoint: dict[str, Any]) -> None:
    """Resume with the seed of before, which mmengine would set only after the sampler."""
    seed = checkpoint.get('meta', {}).get('seed')
    if seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}


def _pretrained(cfg: Config) -> str | None:
    init = cfg.model.get('backbone', {}).get('init_cfg')
    if not isinstance(init, Mapping):
        return None
    if 'type' not in init:
        raise ConfigError(
            f'model.backbone.init_cfg has no type, only {", ".join(init)}: for weights '
            'from a file, add model.backbone.init_cfg.type=Pretrained'
        )
    return init.get('checkpoint') if is_a(init, 'Pretrained', 'PretrainedInit') else None


def set_hook(cfg: Config, kind: str, present: bool, **arguments: Any) -> None:
    """Add a custom hook that a config may lack, or take it and its children away."""
    hooks = list(cfg.get('custom_hooks') or [])
    has = any(_is_hook(hook, kind) for hook in hooks)
    if present and not has:
        hooks.append(dict(type=kind, **arguments))
    elif not present:
        hooks = [hook for hook in hooks if not _is_hook(hook, kind)]
    cfg.custom_hooks = hooks


def _is_hook(cfg: Mapping[str, Any], kind: str) -> bool:
    """Tell whether a config builds a hook of this kind, or a child of it."""
    found = cfg.get('type')
    found = HOOKS.get(found) if isinstance(found, str) else found
    family = found.__mro__ if isinstance(found, type) else ()
    return any(is_a({'type': each}, kind) for each in family)


def build_runner(cfg: Config, *, verbose: bool = False) -> Runner:
    """Adapt a config to the machine and build its Runner.

    Every file that it loads is checked, see
    :func:`~mmseg_repvgg.datasets.checked_loading.check_loading`; the config that it dumps
    and saves with its checkpoints says nothing of it, and so serves mmseg's own tools.

    Where there is no GPU, several processes talk through gloo, DDP gets no device ids
    and SyncBN, which torch has for GPUs only, becomes BN.

    Args:
        cfg: The config, ``launcher`` and ``work_dir`` set.
        verbose: Whether config, environment and hooks go to the screen, too, and the log
            instead of a progress bar.

    Raises:
        ConfigError: If the processes would not all start from the same checkpoint.
        WriteError: If nothing can be written to the work dir.
    """
    _require_writable(cfg.work_dir)
    drop_missing_tensorboard(cfg)
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in _MMENGINE_HOOKS.split():
            del hooks[name]
    if get_device() == 'cpu' and cfg.get('launcher', 'none') != 'none':
        start_gloo(cfg)
    if verbose:
        set_hook(cfg, 'ProgressHook', False)
    runner_type: Any = RUNNERS.get(cfg.get('runner_type', 'Runner'))
    build = runner_type.from_cfg if verbose else partial(build_quietly, runner_type)
    runner = build(cfg)
    runner.logger.info(f'Log and config: {runner.log_dir}')
    for name in ('train', 'val', 'test'):
        loader = getattr(runner, f'_{name}_dataloader')
        if isinstance(loader, Mapping):
            check_loading(loader['dataset'])
    _require_same_start(cfg)
    return runner


def _require_writable(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b'0')
    except OSError as error:
        raise WriteError(
            f'the work dir {folder} cannot be written: {error.strerror}. Make room, or '
            'choose another with --work-dir'
        ) from error


def _require_same_start(cfg: Config) -> None:
    """Only the main process writes checkpoints; each looks for the latest by itself."""
    starts = {str(start) for start in all_gather_object(cfg.get('load_from'))}
    if len(starts) > 1:
        raise ConfigError(
            f'the processes would start from different checkpoints: '
            f'{", ".join(sorted(starts))}. The work dir must be the same for all of '
            'them, on a file system that every node sees'
        )


def _check_data(cfg: Config, *loaders: str) -> None:
    for loader in loaders:
        if cfg.get(loader):
            check_dataset(cfg[loader].dataset)
