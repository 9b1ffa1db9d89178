"""Hook that saves a checkpoint on SIGTERM."""

import os
import signal
import threading
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from .deploy_hook import DeployHook
from .loop_end import on_loop_end


@FUNCTIONS.register_module()
def init_worker(worker_id: int) -> None:
    """Make a dataloader's worker outlive a SIGTERM to the whole job.

    Slurm sends the signal to every process of a job, but the trainer needs its workers
    to finish the iteration. A SIGTERM by the trainer itself still ends them. Unlike
    mmengine's function, this one leaves the worker with the seeds that torch gave it.
    """
    if hasattr(signal, 'sigwaitinfo'):
        # A Python handler is not told who sent a signal, so a thread waits for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@HOOKS.register_module()
class TerminationHook(Hook):
    """Hook that saves a checkpoint and exits on SIGTERM.

    Slurm sends this signal at a time limit, and clouds before they reclaim a machine. The
    current iteration is finished first; during a validation, the weights of the last
    training iteration are saved. The exit status is 143. Dataloaders with workers need
    ``worker_init_fn=dict(type='init_worker')``.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._asked = False
        self._handler = ExitStack()

    def before_run(self, runner: Runner) -> None:
        """Restore the previous handler when the training ends, also by an exception."""
        on_loop_end(runner._train_loop, self._handler.close)

    def before_train(self, runner: Runner) -> None:
        """Install the signal handler."""
        self._asked = False
        if threading.current_thread() is not threading.main_thread():
            # Python allows signal handlers in the main thread only.
            runner.logger.warning('TerminationHook: SIGTERM will not save a checkpoint')
            return
        previous = signal.signal(signal.SIGTERM, self._ask)
        # Python returns None for a handler that it did not install, and cannot set it.
        self._handler.callback(signal.signal, signal.SIGTERM, previous or signal.SIG_DFL)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True

    def before_val_epoch(self, runner: Runner) -> None:
        """Store how many iterations all processes have; later ones cannot synchronize."""
        shared = torch.tensor(len(runner.val_dataloader))
        all_reduce(shared, op='min')
        self._shared = int(shared)

    def _any_asked(self) -> bool:
        """Return whether any process got the signal, so that all stop together."""
        asked = torch.tensor(float(self._asked))
        all_reduce(asked, op='max')
        return bool(asked)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and exit after a signal."""
        if self._any_asked():
            _save_and_exit(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save what was trained and exit after a signal."""
        if batch_idx >= self._shared or not self._any_asked():
            return
        for hook in runner.hooks:
            if isinstance(hook, DeployHook):
                hook.restore(runner)
            if isinstance(hook, EMAHook):
                # It swapped its weights in for the validation and swaps them back here.
                hook._swap_ema_parameters()
        _save_and_exit(runner, runner.iter)


def _save_and_exit(runner: Runner, iteration: int) -> None:
    hooks = [h for h in runner.hooks if isinstance(h, CheckpointHook) and not h.by_epoch]
    if hooks:
        meta = dict(epoch=runner.epoch, iter=iteration)
        hooks[0]._save_checkpoint_with_step(runner, iteration, meta)
        saved = hooks[0].last_ckpt
        runner.logger.info(f'SIGTERM: saved {saved}; --resume continues from it')
    else:
        runner.logger.warning(
            'SIGTERM: no checkpoint is saved, which needs a CheckpointHook with '
            'by_epoch=False'
        )
    # Only the main process writes; a launcher may end all when the first one exits.
    barrier()
    raise SystemExit(128 + signal.SIGTERM)
