"""Access to the part of a log that reaches the screen; the log file has all of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


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
