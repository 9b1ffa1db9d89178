"""Hook that makes all processes validate the same model."""

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class SameBuffersHook(Hook):
    """Hook that sends the main process's buffers to all others before a validation.

    DDP keeps parameters equal, but not the running statistics of batch norms other than
    SyncBN, which does not exist on CPUs. Without this hook each process would evaluate
    its images with its own statistics, while only the main process's model is saved.
    """

    # EMAHook, which may swap buffers in, has to come first.
    priority = 'BELOW_NORMAL'

    def before_val_epoch(self, runner: Runner) -> None:
        """Broadcast the buffers of the main process."""
        for buffer in runner.model.buffers():
            broadcast(buffer)
