"""Count the processor cores of this process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return ``OMP_NUM_THREADS`` if it is a number, else the number of usable cores."""
    wanted = os.environ.get('OMP_NUM_THREADS', '')
    return int(wanted) if wanted.isdecimal() and int(wanted) else usable_cores()
