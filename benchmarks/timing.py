"""Time several functions against each other, so that changes of the machine affect all.

The functions take turns in one process. Each round runs every function once. The order is
drawn anew every second round and reversed in the next, so that drift within two rounds
cancels and no function always follows the same one. Speedups are taken round by round;
their median and quartiles are reported.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MIN_ROUNDS = 3


@dataclass(frozen=True)
class Spread:
    """Median and quartiles.

    Attributes:
        median: The median.
        low: The lower quartile.
        high: The upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Timings:
    """The times of each function, round by round.

    Attributes:
        seconds: Times by name; those at one index are of the same round.
        warmup: Number of untimed rounds before.
    """

    seconds: dict[str, list[float]]
    warmup: int

    @property
    def rounds(self) -> int:
        """Number of timed rounds."""
        return min(map(len, self.seconds.values()))

    def spread(self, name: str) -> Spread:
        """Return the spread of the seconds of a function."""
        return Spread.of(self.seconds[name])

    def speedup(self, name: str, baseline: str) -> Spread:
        """Return the speedup of a function over a baseline, round by round.

        The median of the ratios is in general not the ratio of the medians.
        """
        pairs = zip(self.seconds[baseline], self.seconds[name])
        return Spread.of([theirs / ours for theirs, ours in pairs])

    def fastest(self, names: Sequence[str]) -> str:
        """Return the name with the lowest median."""
        return min(names, key=lambda name: self.spread(name).median)


def time_alternating(
    things: Mapping[str, Callable[[], Any]],
    *,
    warmup: int = 2,
    rounds: int = 11,
    budget: float | None = None,
    device: str | torch.device = 'cpu',
    seed: int = 0,
    on_round: Callable[[Timings], Any] | None = None,
) -> Timings:
    """Time functions in alternating rounds.

    The caller sets the number of threads and the grad mode.

    Args:
        things: Functions by name.
        warmup: Number of untimed rounds, at least 0.
        rounds: Number of timed rounds, at least 1.
        budget: Seconds, including the warm-up, after which no further round begins. One
            round of warm-up and :data:`MIN_ROUNDS` timed ones are run in any case, or as
            many as requested if fewer. None for no limit.
        device: On a CUDA device, times are measured between two CUDA events around a call
            (not run on a GPU yet).
        seed: Seed of the order. Torch's generators are not used.
        on_round: Called with the timings after each timed round.

    Raises:
        ValueError: If there is no function, or a number is too small.
    """
    if not things:
        raise ValueError('there is nothing to time')
    if warmup < 0 or rounds < 1:
        raise ValueError(
            f'warmup must be at least 0 and rounds at least 1, but got {warmup} and '
            f'{rounds}'
        )
    measure = _between_events if torch.device(device).type == 'cuda' else _by_the_clock
    seconds: dict[str, list[float]] = {name: [] for name in things}
    orders = _orders(list(things), seed)
    end = None if budget is None else time.monotonic() + budget

    def spent() -> bool:
        return end is not None and time.monotonic() > end

    ran = 0
    while ran < warmup and not (ran and spent()):
        for name in next(orders):
            measure(things[name])
        ran += 1
    timings = Timings(seconds, ran)
    while timings.rounds < rounds and not (timings.rounds >= MIN_ROUNDS and spent()):
        # An interrupted round is not recorded.
        taken = {name: measure(things[name]) for name in next(orders)}
        for name in things:
            seconds[name].append(taken[name])
        if on_round is not None:
            on_round(timings)
    return timings


def _orders(names: list[str], seed: int) -> Iterator[list[str]]:
    generator = random.Random(seed)
    while True:
        generator.shuffle(names)
        yield names[:]
        yield names[::-1]


def _by_the_clock(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _between_events(call: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
