"""Hook that stops a training whose loss or weights are not finite."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from mmseg.registry import HOOKS
from torch import Tensor

from ..errors import ConfigError, TrainingError


@HOOKS.register_module()
class FiniteHook(Hook):
    """Hook that stops when the loss is NaN or infinite, and never saves such weights.

    Args:
        interval: Iterations between checks of the loss, each of which waits for the
            device. The loss is always checked before a checkpoint is written.

    Raises:
        TrainingError: From the training, naming the iteration and the last checkpoint.
    """

    priority = 'ABOVE_NORMAL'

    def __init__(self, interval: int = 10) -> None:
        if interval < 1:
            raise ConfigError(f'interval must be at least 1, but got {interval!r}')
        self.interval = interval
        self._losses: dict[str, Tensor] = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Check the losses every ``interval`` iterations."""
        self._losses = {k: v.detach() for k, v in (outputs or {}).items() if 'loss' in k}
        if self.every_n_train_iters(runner, self.interval):
            _require_finite(runner, self._losses)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the losses and every weight that is about to be saved."""
        _require_finite(runner, self._losses)
        _require_finite(runner, checkpoint['state_dict'])


def _require_finite(runner: Runner, tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        wrong = value[~torch.isfinite(value)]
        if wrong.numel():
            last = find_latest_checkpoint(runner.work_dir)
            kept = f'The last good checkpoint is {last}' if last else 'None was saved'
            raise TrainingError(
                f'{name} is {float(wrong[0])} at iteration {runner.iter + 1}; the '
                f'training stops. {kept}. Lower the learning rate, clip the gradients, '
                'or check images and labels'
            )
