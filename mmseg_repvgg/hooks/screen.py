"""The part of a Runner's log that reaches the screen; its file has all of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner


def screen_handlers(logger: logging.Logger) -> list[logging.StreamHandler]:
    """Return the handlers of a logger that write to the screen."""
    return [h for h in logger.handlers if type(h) is logging.StreamHandler]


@contextmanager
def warnings_only(logger: logging.Logger) -> Iterator[None]:
    """Keep records below a warning off the screen within a block."""
    levels = {handler: handler.level for handler in screen_handlers(logger)}
    for handler, level in levels.items():
        handler.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)


def build_quietly(runner_type: type[Runner], cfg: Any) -> Runner:
    """Build a Runner that writes its config, environment and hooks to its log file only.

    Args:
        runner_type: The class of the Runner.
        cfg: The config to build it from.
    """
    muted = []

    class QuietRunner(runner_type):  # type: ignore[valid-type, misc]
        def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
            logger = super().build_logger(*args, **kwargs)
            muted.append(warnings_only(logger))
            muted[0].__enter__()
            return logger

    try:
        return QuietRunner.from_cfg(cfg)
    finally:
        for context in muted:
            context.__exit__(None, None, None)
