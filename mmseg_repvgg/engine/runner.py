"""Building the Runner of a config on this machine."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, master_only
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmseg.registry import RUNNERS

from ..datasets.checks import check_loading
from ..errors import ConfigError, WriteError
from ..hooks import ProgressHook
from ..hooks.progress_hook import warnings_only
from .config import remove_hook
from .processes import start_gloo
from .visualization import apply_tensorboard_key

# A Runner takes None for these hooks, to leave them out, but for no others.
_MMENGINE_HOOKS = {
    *('runtime_info', 'timer', 'sampler_seed', 'logger'),
    *('param_scheduler', 'checkpoint'),
}


def build_runner(
    cfg: Config,
    *,
    verbose: bool = False,
    evaluating: bool = False,
    resume_from: str | None = None,
) -> Runner:
    """Build the Runner of a config, adapted to this machine.

    Every image and label map that it loads is checked. The config that it dumps and saves
    with its checkpoints keeps mmseg's loading, and so serves mmseg's own tools. Without a
    GPU, several processes communicate through gloo.

    Args:
        cfg: The config; changed in place.
        verbose: Show config, environment and hooks on the screen as well, and log lines
            instead of a progress bar.
        evaluating: Put the config beside the log. That in the work dir, which says how
            the network was trained, and which may be the file that was given, stays.
        resume_from: Checkpoint of the training to resume, in place of ``load_from``.

    Raises:
        ConfigError: If the processes would start from different checkpoints.
        WriteError: If nothing can be written to the work dir.
    """
    _require_writable(cfg.work_dir)
    apply_tensorboard_key(cfg)
    hooks = cfg.get('default_hooks') or {}
    if hooks.get('samples'):
        # The option default_hooks.samples.count works for configs without the hook too.
        hooks['samples'].setdefault('type', 'SampleHook')
    cfg.default_hooks = {
        name: hook
        for name, hook in hooks.items()
        if hook is not None or name in _MMENGINE_HOOKS
    }
    if get_device() == 'cpu' and cfg.get('launcher', 'none') != 'none':
        start_gloo(cfg)
    runner_type: Any = RUNNERS.get(cfg.get('runner_type', 'Runner'))
    if evaluating:
        members = dict(dump_config=_dump_config_beside_log)
        runner_type = type('Runner', (runner_type,), members)
    if verbose:
        remove_hook(cfg, ProgressHook)
        runner = runner_type.from_cfg(cfg)
    else:
        runner = _build_quietly(runner_type, cfg)
    if resume_from is not None:
        runner._load_from, runner._resume = resume_from, True
    runner.logger.info(f'Log and config: {runner.log_dir}')
    for name in ('train', 'val', 'test'):
        loader = getattr(runner, f'_{name}_dataloader')
        if isinstance(loader, Mapping):
            check_loading(loader['dataset'])
    starts = {str(start) for start in all_gather_object(runner._load_from)}
    if len(starts) > 1:
        raise ConfigError(
            f'the processes would start from different checkpoints: '
            f'{", ".join(sorted(starts))}. Use a work dir on a file system that every '
            'node sees'
        )
    return runner


@master_only
def _dump_config_beside_log(self: Runner) -> None:
    name = os.path.basename(self.cfg.filename or 'config.py')
    self.cfg.dump(os.path.join(self.log_dir, name))


def _build_quietly(runner_type: type[Runner], cfg: Config) -> Runner:
    """Build a Runner that writes config, environment and hooks to its log file only."""
    with ExitStack() as muted:

        def build_logger(self: Runner, *args: Any, **kwargs: Any) -> MMLogger:
            logger = runner_type.build_logger(self, *args, **kwargs)
            muted.enter_context(warnings_only(logger))
            return logger

        quiet: Any = type('Runner', (runner_type,), dict(build_logger=build_logger))
        return quiet.from_cfg(cfg)


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
