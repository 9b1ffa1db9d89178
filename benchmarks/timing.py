"""Timing several things against each other, so that a machine's moods fall on all alike.

The things take turns in one process. Each round runs every one once; which comes first is
drawn anew every second round, and the round after goes the other way, so that drift
within two rounds cancels and nobody always follows the same neighbour. What is compared
is what was measured in the same round: the ratio to a baseline is taken round by round,
and its median and quartiles are of those ratios.
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
        median: Half of the values are below it.
        low: The lower quartile.
        high: The upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up values, of which there must be one at least."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Timings:
    """What each thing took, round by round.

    Attributes:
        seconds: By name; the numbers at one index are of one round.
        warmup: Rounds that were run before and are not among them.
    """

    seconds: dict[str, list[float]]
    warmup: int

    @property
    def rounds(self) -> int:
        """How many rounds were timed."""
        return min(map(len, self.seconds.values()))

    def spread(self, name: str) -> Spread:
        """Seconds of one thing."""
        return Spread.of(self.seconds[name])

    def speedup(self, name: str, baseline: str) -> Spread:
        """How many times as fast as the baseline one thing is, compared round by round.

        The median of the ratios is in general not the ratio of the medians.
        """
        pairs = zip(self.seconds[baseline], self.seconds[name])
        return Spread.of([theirs / ours for theirs, ours in pairs])

    def fastest(self, names: Sequence[str]) -> str:
        """The name of the lowest median."""
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
    """Time things by turns.

    How many threads compute, and whether gradients are kept, is the caller's choice.

    Args:
        things: What to call, by name.
        warmup: Rounds to run first and not to count, at least 0.
        rounds: Rounds to time, at least 1.
        budget: Seconds after which no further round begins, the warm-up included; one
            round of warm-up and :data:`MIN_ROUNDS` timed ones are run nevertheless, or
            fewer if fewer were asked for. None for no limit.
        device: On a CUDA device the time is that between two CUDA events around a call
            (nobody has run this on a GPU yet); else it is the clock's.
        seed: Of the order. Torch's generators are left alone.
        on_round: Called after each timed round with what there is so far.

    Raises:
        ValueError: If there is nothing to time, or a number is too small.
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
        # A round that is cut off leaves nothing behind.
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
