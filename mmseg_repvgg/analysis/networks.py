"""Make a config from the file or the name of a network."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from repvgg_runtime.configs import config_files

from ..engine.config import load_config
from ..errors import ConfigError
from ..models.archs import ARCHS


def network_config(given: str, options: Mapping[str, Any] | None = None) -> Config:
    """Return a config with ``model.backbone``.

    Args:
        given: A config file, the name of a config of this project, or an architecture
            with its dilation, such as ``B2``, ``B2-fast`` or ``B2-full``.
        options: Changes of the config, by dotted key.

    Raises:
        ConfigError: If there is neither such a file nor such an architecture, or the
            config has no model with a backbone.
    """
    arch, _, dilation = given.partition('-')
    if arch in ARCHS:
        backbone = dict(type='RepVGG', arch=arch, dilation=dilation or None)
        cfg = Config(dict(model=dict(backbone=backbone)))
        cfg.merge_from_dict(dict(options or {}))
        return cfg
    if not Path(given).suffix and given not in config_files():
        raise ConfigError(
            f'{given} is neither a config file (*.py) nor an architecture: '
            f'{", ".join(ARCHS)}, or with dilation, such as B2-fast and B2-full'
        )
    cfg = load_config(Namespace(config=given, cfg_options=options, work_dir=None))
    if 'backbone' not in (cfg.get('model') or {}):
        raise ConfigError(f'{given} has no model with a backbone')
    return cfg
