"""TensorBoard as a backend that a training does not depend on."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.visualization import TensorboardVisBackend
from mmseg.registry import VISBACKENDS

from ..registry_types import builds


def _optional(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # A display must not end a training.
            self.failed = True
            print_log(
                f'TensorBoard is off: {error!r}. To use it, pip install tensorboard; to '
                'silence this warning, set tensorboard=False in the config',
                'current',
                logging.WARNING,
            )

    return guarded


@VISBACKENDS.register_module()
class OptionalTensorboardVisBackend(TensorboardVisBackend):
    """A ``TensorboardVisBackend`` that warns once and stops when it fails.

    It fails where TensorBoard is not installed or the disk is full.
    """

    failed = False
    add_config = _optional(TensorboardVisBackend.add_config)
    add_image = _optional(TensorboardVisBackend.add_image)
    add_scalar = _optional(TensorboardVisBackend.add_scalar)
    add_scalars = _optional(TensorboardVisBackend.add_scalars)
    close = _optional(TensorboardVisBackend.close)


def apply_tensorboard_key(cfg: Config) -> None:
    """Remove the TensorBoard backends if the config says ``tensorboard = False``."""
    if not cfg.get('tensorboard', True) and cfg.get('visualizer'):
        cfg.visualizer.vis_backends = [
            backend
            for backend in cfg.visualizer.get('vis_backends') or []
            if not builds(backend, VISBACKENDS, TensorboardVisBackend)
        ]
