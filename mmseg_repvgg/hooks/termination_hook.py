"""The hook by which SIGTERM saves a checkpoint."""

from __future__ import annotations

import os
import random
import signal
import threading
from types import FrameType
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, barrier, is_distributed
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from .deploy_hook import DeployHook
from .loop_end import on_loop_end


@FUNCTIONS.register_module()
def init_worker(worker_id: int) -> None:
    """Let a dataloader's worker outlive a SIGTERM, and seed its generators.

    Slurm sends the signal to every process of a job, and the trainer needs its workers
    to finish the iteration. The trainer's own, by which Python ends what is left at
    exit, still ends them.

    Args:
        worker_id: Not used; torch has given each worker a seed of its own.
    """
    if hasattr(signal, 'sigwaitinfo'):
        # A thread takes the signal since no handler of Python's is told who sent it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


def _exit_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@HOOKS.register_module()
class TerminationHook(Hook):
    """Save a checkpoint and exit on SIGTERM.

    A Slurm time limit sends it, and a spot machine that is taken away. The iteration
    that runs is finished first. During a validation the weights are those of the last
    training iteration, and are saved as that. The exit status is 143.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._asked = False
        self._listening = False
        self._previous: Any = None

    def before_run(self, runner: Runner) -> None:
        """Stop listening when the training ends, by an exception or without one."""
        on_loop_end(runner._train_loop, self._stop_listening)

    def before_train(self, runner: Runner) -> None:
        """Start to listen."""
        self._asked = False
        try:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
            self._listening = True
        except ValueError:
            # Not the main thread: nobody can listen there.
            runner.logger.warning('TerminationHook: SIGTERM will not save a checkpoint')

    def _stop_listening(self) -> None:
        if self._listening:
            # Python cannot put back a handler that is none of its own: None.
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
            self._listening = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _everyone(self) -> bool:
        """Whether any process was asked: all of them stop at the same iteration."""
        if not is_distributed():
            return self._asked
        asked = torch.tensor(float(self._asked))
        all_reduce(asked, op='max')
        return bool(asked)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Save and exit, if asked to."""
        if self._everyone():
            self._save_and_exit(runner, runner.iter + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Save and exit, if asked to; only what was trained is saved."""
        if not self._listening or not self._everyone():
            return
        for hook in runner.hooks:
            if isinstance(hook, DeployHook):
                hook.restore(runner)
            if isinstance(hook, EMAHook):
                # It swapped its weights in before the validation and swaps them back.
                hook._swap_ema_parameters()
        self._save_and_exit(runner, runner.iter)

    def _save_and_exit(self, runner: Runner, iteration: int) -> None:
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        if not hooks:
            runner.logger.warning('SIGTERM: nothing is saved without a CheckpointHook')
        elif not (hook := hooks[0]).by_epoch:
            meta = dict(epoch=runner.epoch, iter=iteration)
            hook._save_checkpoint_with_step(runner, iteration, meta)
            runner.logger.info(
                f'SIGTERM: saved {hook.last_ckpt}; --resume goes on from there'
            )
        else:
            runner.logger.warning(
                'SIGTERM: the last checkpoint of a whole epoch is what --resume takes'
            )
        # Only the main process writes; a launcher may end all when the first one exits.
        barrier()
        raise SystemExit(128 + signal.SIGTERM)
