"""The thread's signal stack, which loading OpenVINO's CPU plugin replaces."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class SignalStack(ctypes.Structure):
    """Linux's ``stack_t``, which says on which memory signal handlers run."""

    _fields_ = (
        ('address', ctypes.c_void_p),
        ('flags', ctypes.c_int),
        ('size', ctypes.c_size_t),
    )


def current_signal_stack() -> SignalStack:
    """Return the signal stack of this thread, on Linux."""
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextlib.contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Restore this thread's signal stack at the end; also a decorator.

    OpenVINO's CPU plugin installs a stack of its own and frees it when it is unloaded.
    If plugins are unloaded in the order in which they were loaded, or by another thread,
    the freed stack stays installed, and the next signal that Python handles kills the
    process.
    """
    if sys.platform != 'linux':
        yield
        return
    stack = current_signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)
