"""What a training shows of itself while it runs, unless the config says otherwise."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.visualization import TensorboardVisBackend
from mmseg.registry import VISBACKENDS

from ..registry_types import is_a

_BACKENDS = ('TensorboardVisBackend', 'OptionalTensorboardVisBackend')
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def _optional(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def guarded(self: OptionalTensorboardVisBackend, *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # What only shows a training must not end it.
            self.failed = True
            print_log(f'TensorBoard is off: {error!r}', 'current', logging.WARNING)

    return guarded


@VISBACKENDS.register_module()
class OptionalTensorboardVisBackend(TensorboardVisBackend):
    """A ``TensorboardVisBackend`` that warns and writes no more once it has failed."""

    failed = False
    add_config = _optional(TensorboardVisBackend.add_config)
    add_image = _optional(TensorboardVisBackend.add_image)
    add_scalar = _optional(TensorboardVisBackend.add_scalar)
    add_scalars = _optional(TensorboardVisBackend.add_scalars)
    close = _optional(TensorboardVisBackend.close)


def watch(cfg: Config) -> None:
    """Have a training write to TensorBoard, if that is installed, and paint samples.

    ``tensorboard = False`` in the config turns the one off, and
    ``default_hooks.samples = None`` the other. What else the config has is kept.

    Args:
        cfg: Of a training; changed in place.
    """
    samples = cfg.default_hooks.get('samples', {})
    # mmengine takes None for its own hooks only.
    samples = dict(count=0) if samples is None else samples
    cfg.default_hooks.samples = {'type': 'SampleHook', **samples}
    add_visualizer(cfg)
    backends, others = _backends(cfg)
    if not cfg.get('tensorboard', True):
        cfg.visualizer.vis_backends = others
    elif backends == others:
        cfg.visualizer.vis_backends = [*others, dict(type=_BACKENDS[1])]
    drop_missing_tensorboard(cfg)


def add_visualizer(cfg: Config) -> None:
    """Give a config mmseg's visualizer if it has none; mmengine's paints no labels."""
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(
            type='SegLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
        )


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
    return backends, [each for each in backends if not is_a(each, *_BACKENDS)]
