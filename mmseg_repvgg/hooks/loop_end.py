"""Callback for the end of a loop, for which mmengine has no hook point."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.runner import BaseLoop


def on_loop_end(loop: Any, callback: Callable[[], Any]) -> None:
    """Call a function when a loop's ``run`` ends, normally or by an exception.

    A Runner has a config or None in the place of a loop that it does not use, which is
    left unchanged.
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
