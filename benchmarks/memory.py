"""Measure the peak memory of a computation.

On a CPU, each computation runs in a fresh process, since memory that an earlier one freed
may stay with the process and hide the need of the next; Linux only. On a GPU, torch's
allocator counts exactly in the same process.
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
    """Peak memory that cannot be measured on this machine."""


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of resident memory of a process, or on a GPU of torch's allocator.

    Attributes:
        start: Before the model was built.
        built: After that, before the first run.
        peak: Maximum during the runs.
    """

    start: int
    built: int
    peak: int

    @property
    def model(self) -> int:
        """Bytes of the model."""
        return self.built - self.start

    @property
    def run(self) -> int:
        """Bytes that running takes in addition."""
        return self.peak - self.built

    @property
    def total(self) -> int:
        """Bytes of both together."""
        return self.peak - self.start


def peak_memory(
    build: Callable[..., Callable[[], Any]], *arguments: Any, runs: int = 2
) -> PeakMemory:
    """Measure the peak memory of a computation in a fresh process.

    Args:
        build: A picklable function that returns the computation. Memory that it frees is
            not counted.
        arguments: Picklable arguments of ``build``.
        runs: Number of runs; the first may take more than later ones.

    Raises:
        MeasurementError: If the process was killed, for example when out of memory, or
            the peak cannot be reset on this machine. Errors of ``build`` and of the runs
            are raised as they are.
    """
    # A forked process would start with the memory of this one.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, build, arguments, runs).result()
        except BrokenProcessPool as error:
            raise MeasurementError(
                'the process that measured memory was killed, probably for lack of '
                'memory. Use a smaller --size or --batch'
            ) from error


def run_on_gpu(
    build: Callable[[], Callable[[], Any]],
) -> tuple[Callable[[], Any], Any, PeakMemory]:
    """Build a computation, run it once and measure the memory that torch allocates.

    This has not been run on a GPU yet.

    Args:
        build: Returns the computation.

    Returns:
        The computation, its output and the memory.
    """
    start = _allocated()
    run = build()
    give_back()
    built = _allocated()
    torch.cuda.reset_peak_memory_stats()
    output = run()
    return run, output, PeakMemory(start, built, torch.cuda.max_memory_allocated())


def give_back() -> None:
    """Return freed memory of this process to the system."""
    gc.collect()
    # Only glibc has this function, and Windows cannot load None.
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
    # The runs would reuse freed memory without being counted.
    give_back()
    built = _resident('VmRSS')
    _reset_peak()
    for _ in range(runs):
        run()
    return PeakMemory(start, built, _resident('VmHWM'))


def _read_code_in() -> None:
    """Run a conv once, so that torch's code is not counted as the model's memory."""
    layer = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval()
    with torch.inference_mode():
        for dtype in (torch.float64, torch.float32):
            layer.to(dtype)(torch.ones(1, 16, 32, 32, dtype=dtype))


def _allocated() -> int:
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def _resident(field: str) -> int:
    """Return a field of ``/proc/self/status`` in bytes."""
    lines = (_PROCESS / 'status').read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f'{field}:'))
    return int(line.split()[1]) * 1024


def _reset_peak() -> None:
    """Reset the maximum of resident memory."""
    try:
        (_PROCESS / 'clear_refs').write_text('5')
    except OSError as error:
        raise MeasurementError(
            f'the peak of resident memory cannot be reset here: {error}'
        ) from error
