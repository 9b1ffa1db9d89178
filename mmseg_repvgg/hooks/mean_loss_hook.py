"""The hook by which several processes log the loss that they minimise together."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Take the mean over all processes of what each iteration logs.

    mmengine logs what the main process saw of its own share of the batch. The gradient is
    that of the mean over processes, so that is the loss of an iteration, and the same
    however many processes share it. What is not finite in one process is so in all.
    """

    # Before RuntimeInfoHook, which notes the losses for the log.
    priority = 'HIGHEST'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Replace each value by its mean; all travel in one tensor."""
        if not outputs or get_world_size() == 1:
            return
        values = torch.stack([value.detach().float() for value in outputs.values()])
        all_reduce(values, op='mean')
        outputs.update(zip(outputs, values))
