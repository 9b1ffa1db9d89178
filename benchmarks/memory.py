"""Peak memory of a computation, in a process of its own or on a GPU.

Memory that an earlier computation gave back may stay with the process, and would hide
what the next one takes: so each is measured in a fresh process. Linux only. On a GPU
torch's allocator keeps an exact account, and no other process is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmseg_repvgg.errors import UserError

_PROCESS = Path('/proc/self')


class MeasurementError(UserError, RuntimeError):
    """Something that cannot be measured on this machine."""


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory of a process; on a GPU, memory of torch's allocator. In bytes.

    Attributes:
        start: Before anything was built.
        built: When it was built, before its first run.
        peak: The highest while it ran.
    """

    start: int
    built: int
    peak: int

    @property
    def model(self) -> int:
        """What was built holds."""
        return self.built - self.start

    @property
    def run(self) -> int:
        """What running took on top."""
        return self.peak - self.built

    @property
    def total(self) -> int:
        """Both: the peak over the empty process."""
        return self.peak - self.start


def peak_memory(
    build: Callable[..., Callable[[], Any]], *arguments: Any, runs: int = 2
) -> PeakMemory:
    """Measure what a computation takes at its peak, in a fresh process.

    Args:
        build: Makes the computation, in the other process, from ``arguments``; a function
            of a module, and they must be picklable. What it needs for that alone is freed
            before the first run.
        arguments: Of ``build``.
        runs: How often to run it; the first may take more than later ones.

    Raises:
        MeasurementError: If the process was killed, as for want of memory, or its peak
            cannot be reset on this machine. What ``build`` or a run raises, is raised.
    """
    # Not forked: that process would have our memory.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, build, arguments, runs).result()
        except BrokenProcessPool as error:
            raise MeasurementError(
                'the process that measured memory was killed, most likely for want of '
                'memory: take a smaller --size or --batch'
            ) from error


def run_on_gpu(
    build: Callable[[], Callable[[], Any]],
) -> tuple[Callable[[], Any], Any, PeakMemory]:
    """Build a computation, run it once and count the memory that torch allocates for it.

    Nobody has run this on a GPU yet.

    Args:
        build: Makes the computation. What it needs for that alone is freed before the
            run.

    Returns:
        The computation, its output and the memory; ``start`` is what this process held
        before.
    """
    start = _allocated()
    run = build()
    give_back()
    built = _allocated()
    torch.cuda.reset_peak_memory_stats()
    output = run()
    return run, output, PeakMemory(start, built, torch.cuda.max_memory_allocated())


def give_back() -> None:
    """Hand memory that is free in this process back to the machine."""
    gc.collect()
    # Only glibc keeps it and has this function; Windows does not open None.
    with contextlib.suppress(AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _measure(
    build: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], runs: int
) -> PeakMemory:
    if not _PROCESS.exists():
        raise MeasurementError('peak memory is read from /proc, which only Linux has')
    _read_code_in()
    start = _resident('VmRSS')
    run = build(*arguments)
    # What building has freed, or the runs would take it unseen.
    give_back()
    built = _resident('VmRSS')
    _reset_peak()
    for _ in range(runs):
        run()
    return PeakMemory(start, built, _resident('VmHWM'))


def _read_code_in() -> None:
    """Have torch's code for a conv in memory before; it would count as the model's."""
    layer = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval()
    with torch.inference_mode():
        for dtype in (torch.float64, torch.float32):
            layer.to(dtype)(torch.ones(1, 16, 32, 32, dtype=dtype))


def _allocated() -> int:
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def _resident(field: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    lines = (_PROCESS / 'status').read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f'{field}:'))
    return int(line.split()[1]) * 1024


def _reset_peak() -> None:
    """Have the highest resident memory counted from now on."""
    try:
        (_PROCESS / 'clear_refs').write_text('5')
    except OSError as error:
        raise MeasurementError(
            f'the peak of resident memory cannot be reset here: {error}'
        ) from error
