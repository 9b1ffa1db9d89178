"""Hook that shows the progress of a training, and functions that mute log lines."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    TextColumn,
    TimeRemainingColumn,
)

from .loop_end import on_loop_end


@HOOKS.register_module()
class ProgressHook(Hook):
    """Hook that shows how far a training is and how long it will take.

    On a terminal it draws a progress bar with the time per iteration, the time left and
    the loss, and in a notebook a line of text with the same; LoggerHook's lines then go
    to the log file only. Elsewhere it logs a line after the first iteration, and more at
    growing distances.

    Args:
        seconds: The shortest time between two logged lines.
    """

    # LoggerHook's line of the same iteration comes first.
    priority = 'VERY_LOW'

    def __init__(self, seconds: float = 30) -> None:
        self.seconds = seconds
        self._bar: Progress | None = None
        self._line: Any = None
        self._shown = ExitStack()

    def before_run(self, runner: Runner) -> None:
        """Release the screen when the training ends, also by an exception."""
        on_loop_end(runner._train_loop, self._end)

    def before_train(self, runner: Runner) -> None:
        """Note the time; draw the bar on a terminal, the line in a notebook."""
        self._start, self._first, self._due = time.monotonic(), runner.iter, 0.0
        console = Console()
        if not is_main_process():
            return
        if console.is_jupyter:
            from IPython.display import display

            self._line = display({'text/plain': ''}, raw=True, display_id=True)
        elif console.is_terminal:
            self._bar = Progress(
                TextColumn('training'),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn('{task.fields[speed]}'),
                TimeRemainingColumn(),
                TextColumn('left  {task.fields[loss]}'),
            )
            self._task = self._bar.add_task(
                '', total=runner.max_iters, completed=self._first, speed='', loss=''
            )
        self._show(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Advance the bar or the line, or log a line if one is due."""
        elapsed, done = time.monotonic() - self._start, runner.iter + 1
        each = elapsed / (done - self._first)
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        last = self._line is not None and done == runner.max_iters
        if elapsed < self._due and not last:
            return
        left = timedelta(seconds=round(each * (runner.max_iters - done)))
        line = f'Iteration {done} of {runner.max_iters}, {each:.2f} s each, {left} left'
        if self._bar is None and self._line is None:
            self._due = elapsed + max(self.seconds, elapsed)
            runner.logger.info(line)
            return
        # Reading the loss waits for a GPU, so once a second is enough.
        self._due = elapsed + 1
        loss = f'loss {outputs["loss"].item():.3f}' if outputs else ''
        if self._bar is not None:
            self._bar.update(self._task, speed=f'{each:.2f} s/it', loss=loss)
        else:
            self._line.update({'text/plain': f'{line}  {loss}'}, raw=True)

    def before_val(self, runner: Runner) -> None:
        """Remove the bar while a validation logs its lines."""
        self._shown.close()

    def after_val(self, runner: Runner) -> None:
        """Draw the bar again."""
        if runner.iter < runner.max_iters:
            self._show(runner)

    def _end(self) -> None:
        self._shown.close()
        # A validation after an interrupted training shows neither again.
        self._bar = self._line = None

    def _show(self, runner: Runner) -> None:
        """Draw the bar, if there is one, and mute what it or the line replaces."""
        if self._bar is None and self._line is None:
            return
        self._shown.enter_context(warnings_only(runner.logger))
        if self._bar is None:
            return
        self._shown.enter_context(self._bar)
        for handler in screen_handlers(runner.logger):
            # rich redraws the bar below lines that are written to sys.stdout only.
            self._shown.callback(handler.setStream, handler.stream)
            handler.setStream(sys.stdout)


def screen_handlers(logger: logging.Logger) -> list[logging.StreamHandler]:
    """Return the handlers of a logger that write to the screen."""
    return [h for h in logger.handlers if type(h) is logging.StreamHandler]


@contextmanager
def warnings_only(logger: logging.Logger) -> Iterator[None]:
    """Keep records below a warning off the screen within a block."""
    with ExitStack() as levels:
        for handler in screen_handlers(logger):
            levels.callback(handler.setLevel, handler.level)
            handler.setLevel(max(handler.level, logging.WARNING))
        yield
