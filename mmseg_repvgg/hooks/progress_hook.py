"""The hook that shows how far a training is and how long it will take."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from .loop_end import on_loop_end
from .screen import screen_handlers, warnings_only


class SpeedColumn(ProgressColumn):
    """Iterations per second, or seconds per iteration if that is the larger number."""

    def render(self, task: Task) -> Text:
        """Return the speed over the last half minute."""
        if not task.speed:
            return Text('')
        if task.speed < 1:
            return Text(f'{1 / task.speed:.1f} s/it')
        return Text(f'{task.speed:.1f} it/s')


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show the progress of a training.

    On a terminal it draws a progress bar with iterations per second, the time left and
    the loss; meanwhile LoggerHook's lines go to the log file only. Elsewhere it logs a
    line after the first iteration, and more at growing distances, whatever LoggerHook's
    interval is.

    Args:
        seconds: The shortest time between two lines where there is no terminal.
    """

    # After LoggerHook, whose line of the same iteration comes first.
    priority = 'VERY_LOW'

    def __init__(self, seconds: float = 30) -> None:
        self.seconds = seconds
        self._bar: Progress | None = None
        self._shown = ExitStack()

    def before_run(self, runner: Runner) -> None:
        """Let the end of the training, by an exception too, give the screen back."""
        on_loop_end(runner._train_loop, self._shown.close)

    def before_train(self, runner: Runner) -> None:
        """Draw the bar, or note the time."""
        self._start = time.monotonic()
        self._first = runner.iter
        self._due = 0.0
        if is_main_process() and Console().is_terminal:
            self._bar = Progress(
                TextColumn('training'),
                BarColumn(),
                MofNCompleteColumn(),
                SpeedColumn(),
                TimeRemainingColumn(),
                TextColumn('left  {task.fields[loss]}'),
            )
            self._task = self._bar.add_task(
                'training', total=runner.max_iters, completed=self._first, loss=''
            )
            self._show(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Move the bar on, or log a line if one is due."""
        elapsed = time.monotonic() - self._start
        done = runner.iter + 1
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        if elapsed < self._due:
            return
        if self._bar is not None:
            # Reading the loss waits for a GPU: once a second is enough.
            self._due = elapsed + 1
            loss = (outputs or {}).get('loss')
            if loss is not None:
                self._bar.update(self._task, loss=f'loss {float(loss.detach()):.3f}')
            return
        self._due = elapsed + max(self.seconds, elapsed)
        each = elapsed / (done - self._first)
        left = timedelta(seconds=round(each * (runner.max_iters - done)))
        runner.logger.info(
            f'Iteration {done} of {runner.max_iters}, {each:.2f} s each, {left} left'
        )

    def before_val(self, runner: Runner) -> None:
        """Leave the screen to the lines of a validation."""
        self._shown.close()

    def after_val(self, runner: Runner) -> None:
        """Draw the bar again."""
        if self._bar is not None and not self._bar.finished:
            self._show(runner)

    def _show(self, runner: Runner) -> None:
        assert self._bar is not None
        self._shown.enter_context(self._bar)
        self._shown.enter_context(warnings_only(runner.logger))
        for handler in screen_handlers(runner.logger):
            # The bar moves out of the way of what is written to its stdout only.
            self._shown.callback(handler.setStream, handler.stream)
            handler.setStream(sys.stdout)
