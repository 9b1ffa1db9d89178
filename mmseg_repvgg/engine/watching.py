"""What a training shows of itself while it runs, unless the config says otherwise."""

from __future__ import annotations

import os
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..kinds import is_a

_BACKEND = 'TensorboardVisBackend'
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def watch(cfg: Config) -> None:
    """Have a training write to TensorBoard, if that is installed, and paint samples.

    ``tensorboard = False`` in the config turns the one off, and
    ``default_hooks.samples.count = 0`` the other. What else the config has is kept.

    Args:
        cfg: Of a training; changed in place.
    """
    samples = cfg.default_hooks.get('samples', {})
    cfg.default_hooks.samples = {'type': 'SampleHook', **samples}
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(
            type='SegLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
        )
    backends, others = _backends(cfg)
    if not cfg.get('tensorboard', True):
        cfg.visualizer.vis_backends = others
    elif backends == others:
        cfg.visualizer.vis_backends = [*others, dict(type=_BACKEND)]
    drop_missing_tensorboard(cfg)


def drop_missing_tensorboard(cfg: Config) -> None:
    """Take the TensorBoard backend away where TensorBoard doesn't import, and say so.

    A config that a run has dumped is to work on a machine that has none.

    Args:
        cfg: Changed in place.
    """
    backends, others = _backends(cfg)
    if backends == others:
        return
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception as error:  # a broken one is not to end a training either
        cfg.visualizer.vis_backends = others
        # The processes may not have met yet: mmengine cannot tell which is the first.
        if all(os.environ.get(name, '0') == '0' for name in _RANKS):
            print_log(
                f'TensorBoard is off ({error}): install it with pip install '
                "'mmseg_repvgg[tensorboard]', or say tensorboard=False in the config"
            )


def _backends(cfg: Config) -> tuple[list[Any], list[Any]]:
    """All backends of the visualizer, and all but TensorBoard's."""
    backends = list((cfg.get('visualizer') or {}).get('vis_backends') or [])
    return backends, [each for each in backends if not is_a(each, _BACKEND)]
