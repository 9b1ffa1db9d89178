"""Loading a config for the tools, and adapting its hooks."""

import difflib
import inspect
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from repvgg_runtime.configs import config_files, find_config

from ..errors import ConfigError
from ..models.archs import ARCHS
from ..registry_types import builds

# Keys that a Runner or a tool reads; a config may have others for itself.
_READ = {
    *inspect.signature(Runner.__init__).parameters,
    *('compile', 'strategy', 'runner_type', 'tensorboard'),
    *('test_pipeline', 'tta_pipeline', 'tta_model'),
    *('find_unused_parameters', 'sync_bn', 'model_wrapper_cfg'),
    *('activation_checkpointing', 'efficient_conv_bn_eval'),
}


def load_config(
    config: str | os.PathLike[str],
    cfg_options: Mapping[str, Any] | None = None,
    *,
    work_dir: str | None = None,
    launcher: str = 'none',
    local_rank: int = 0,
) -> Config:
    """Read a config file and apply the options of the command line.

    Args:
        config: A file, or the name of a config of this project.
        cfg_options: Changes of the config, by dotted key.
        work_dir: Folder of the run; by default that of the config, else
            ``work_dirs/NAME_OF_CONFIG``.
        launcher: What started the processes, if several.
        local_rank: Number of this process on its machine.

    Raises:
        ConfigError: If the file cannot be read as a config, or the options don't fit it.
    """
    path = str(find_config(config))
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # A config is a program.
        reason = f'{type(error).__name__}: {error}'
        raise ConfigError(f'the config {path} cannot be read: {reason}') from error
    if not cfg.get('model'):
        raise ConfigError(f'the config {path} has no model')
    cfg.default_hooks = cfg.get('default_hooks') or {}
    cfg.load_from, cfg.resume = cfg.get('load_from'), cfg.get('resume', False)
    # A config with Python imports may have no scope, but the tools add types by name.
    cfg.default_scope = cfg.get('default_scope') or 'mmseg'
    cfg.launcher = launcher
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    _merge(cfg, cfg_options or {}, path)
    for name in {key.partition('.')[0] for key in cfg_options or {}} - _READ:
        close = difflib.get_close_matches(name, _READ, 1)
        hint = f'. Did you mean {close[0]}?' if close else ''
        print_log(
            f'--cfg-options {name} changes nothing that a run reads{hint}',
            'current',
            logging.WARNING,
        )
    default = cfg.get('work_dir') or os.path.join('work_dirs', Path(path).stem)
    cfg.work_dir = work_dir or default
    return cfg


def network_config(given: str, options: Mapping[str, Any] | None = None) -> Config:
    """Return a config with ``model.backbone``.

    Given is a config file, the name of a config of this project, or an architecture with
    its dilation, such as ``B2``, ``B2-fast`` or ``B2-full``. Options are changes of the
    config, by dotted key.

    Raises:
        ConfigError: If there is neither such a file nor such an architecture, or the
            config has no model with a backbone.
    """
    arch, _, dilation = given.partition('-')
    if arch in ARCHS:
        backbone = dict(type='RepVGG', arch=arch, dilation=dilation or None)
        cfg = Config(dict(model=dict(backbone=backbone)))
        _merge(cfg, options or {}, given)
        return cfg
    if not Path(given).suffix and given not in config_files():
        raise ConfigError(
            f'{given} is neither a config file (*.py) nor an architecture: '
            f'{", ".join(ARCHS)}, or with dilation, such as B2-fast and B2-full'
        )
    cfg = load_config(given, options)
    if 'backbone' not in cfg.model:
        raise ConfigError(f'the model of {given} has no backbone')
    return cfg


def _merge(cfg: Config, options: Mapping[str, Any], name: str) -> None:
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f'--cfg-options does not fit {name}: {error.args[0]}'
        ) from error


def add_missing_hook(cfg: Config, hook: type[Hook], **arguments: object) -> None:
    """Add a hook to the ``custom_hooks`` of a config without it, and log that.

    A subclass of the hook will do.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(builds(each, HOOKS, hook) for each in hooks):
        hooks.append(dict(type=hook.__name__, **arguments))
        print_log(f'{hook.__name__} is added to the custom_hooks of the config')
    cfg.custom_hooks = hooks


def remove_hook(cfg: Config, hook: type[Hook]) -> None:
    """Remove a hook and its subclasses from the ``custom_hooks`` of a config."""
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [each for each in hooks if not builds(each, HOOKS, hook)]
