"""Hook that logs the loss that several processes minimise together."""

from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Hook that averages what each iteration logs over all processes.

    mmengine logs the loss of the main process's share of the batch. The gradient is that
    of the mean over processes, so the mean is the loss of the iteration, and the same
    however many processes share it. A loss that is not finite in one process becomes so
    in all.
    """

    # RuntimeInfoHook, which notes the losses for the log, has to come later.
    priority = 'HIGHEST'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Replace each value by its mean over the processes."""
        if outputs and get_world_size() > 1:
            values = torch.stack([value.detach().float() for value in outputs.values()])
            all_reduce(values, op='mean')
            outputs.update(zip(outputs, values))
