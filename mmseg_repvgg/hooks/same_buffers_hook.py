"""The hook by which all processes evaluate the same model."""

from __future__ import annotations

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class SameBuffersHook(Hook):
    """Give every process the main process's buffers before a validation.

    DDP keeps parameters alike, not the running statistics of a batch norm that is no
    SyncBN (there is none on a CPU). Each process would evaluate its images with its own,
    and the metric belong to no checkpoint: what is saved is the main process's model.
    """

    # After EMAHook, which may swap buffers in; before DeployHook, which fuses them.
    priority = 'BELOW_NORMAL'

    def before_val_epoch(self, runner: Runner) -> None:
        """Send the buffers; nothing changes in the main process."""
        for buffer in runner.model.buffers():
            broadcast(buffer)
