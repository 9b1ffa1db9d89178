"""A callback for the end of a loop, which mmengine has no hook point for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.runner import BaseLoop


def on_loop_end(loop: Any, callback: Callable[[], Any]) -> None:
    """Call a function when a loop's ``run`` ends, by an exception or without one.

    Args:
        loop: The loop, whose ``run`` is wrapped. A Runner that does not use a loop has
            None or a config in its place, which is left alone.
        callback: The function to call, after those that were given before.
    """
    if not isinstance(loop, BaseLoop):
        return
    run = loop.run

    @wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        finally:
            callback()

    loop.run = guarded  # type: ignore[method-assign]
