"""Taking turns, ratios of the same round, and memory of a process of its own."""

import os
import time
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks import timing
from benchmarks.memory import MeasurementError, peak_memory
from benchmarks.timing import MIN_ROUNDS, Spread, Timings, time_alternating


def recording(names):
    """Things that note when they are called."""
    calls = []
    return calls, {name: partial(calls.append, name) for name in names}


def test_every_function_runs_once_a_round():
    calls, things = recording('abcd')
    timings = time_alternating(things, warmup=2, rounds=40)
    rounds = [calls[start : start + 4] for start in range(0, len(calls), 4)]
    assert len(rounds) == 42
    assert all(sorted(each) == list('abcd') for each in rounds)
    assert {len(taken) for taken in timings.seconds.values()} == {40}
    assert (timings.rounds, timings.warmup) == (40, 2)
    # Within two rounds everything is once before and once after everything else.
    assert all(there == back[::-1] for there, back in zip(rounds[::2], rounds[1::2]))
    # Nobody is always first, nor always behind the same one.
    assert {each[0] for each in rounds} == set('abcd')
    for name in 'abcd':
        before = {each[each.index(name) - 1] for each in rounds if each[0] != name}
        assert before == set('abcd') - {name}
    # The order is the seed's.
    again, things = recording('abcd')
    time_alternating(things, warmup=2, rounds=40)
    assert again == calls
    other, things = recording('abcd')
    time_alternating(things, warmup=2, rounds=40, seed=1)
    assert other != calls


def test_measured_time_is_that_of_the_call(monkeypatch):
    # A clock that stands still between the things: the true one is the machine's.
    now = [0]
    monkeypatch.setattr(timing, 'time', SimpleNamespace(perf_counter=lambda: now[0]))

    def take(seconds):
        now[0] += seconds

    things = {'slow': partial(take, 3), 'fast': partial(take, 1)}
    timings = time_alternating(things, warmup=1, rounds=5)
    assert timings.seconds == {'slow': [3] * 5, 'fast': [1] * 5}
    assert timings.fastest(['slow', 'fast']) == 'fast'
    assert timings.speedup('fast', 'slow') == Spread(3, 3, 3)


def test_speedups_are_taken_within_rounds():
    # The machine slows down to a tenth; b always takes twice as long as a.
    timings = Timings({'a': [1, 2, 5, 10], 'b': [2, 4, 10, 20]}, 0)
    assert timings.speedup('a', 'b') == Spread(2, 2, 2)
    assert timings.speedup('a', 'a') == Spread(1, 1, 1)
    # The ratio of the medians is 10.
    rounds = Timings({'a': [1, 10, 1], 'b': [2, 10, 30]}, 0)
    assert rounds.speedup('a', 'b').median == 2
    uneven = Timings({'a': [1, 1, 1, 1, 1], 'b': [5, 1, 2, 4, 3]}, 0)
    assert uneven.speedup('a', 'b') == Spread(3, 2, 4)
    assert uneven.spread('b') == Spread(3, 2, 4)


def test_budget_limits_the_rounds():
    things = {'a': partial(time.sleep, 0.02)}
    timings = time_alternating(things, warmup=50, rounds=50, budget=0.05)
    assert timings.warmup < 10
    assert timings.rounds == MIN_ROUNDS
    assert time_alternating(things, rounds=1, budget=1e-9).rounds == 1
    assert time_alternating(things, warmup=1, rounds=5, budget=60).rounds == 5


def test_interrupted_round_is_not_recorded():
    seen = []

    def fail_in_the_third_round():
        if len(seen) == 2:
            raise KeyboardInterrupt

    things = {'a': fail_in_the_third_round, 'b': lambda: None}
    with pytest.raises(KeyboardInterrupt):
        time_alternating(things, warmup=0, rounds=9, on_round=seen.append)
    assert len(seen) == 2
    assert {len(taken) for taken in seen[-1].seconds.values()} == {2}


@pytest.mark.parametrize(
    ('things', 'numbers'),
    [({}, {}), ({'a': int}, {'rounds': 0}), ({'a': int}, {'warmup': -1})],
)
def test_wrong_arguments_are_errors(things, numbers):
    with pytest.raises(ValueError, match='nothing to time|at least'):
        time_alternating(things, **numbers)


# Memory -------------------------------------------------------------------------------

MODULE = """
import os, signal

def build(held, scratch, taken):
    # Small pieces, and a last one that keeps their memory from going back by itself.
    small = 1000
    freed = [b'x' * small for _ in range(scratch // small)]
    kept = [b'x' * held, b'x' * small]
    del freed
    return lambda: (len(kept), b'x' * taken)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fail():
    raise OSError('no such thing')
"""


@pytest.fixture
def other_module(tmp_path, monkeypatch):
    """Of functions that another process can import."""
    (tmp_path / 'things_to_measure.py').write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import things_to_measure

    return things_to_measure


@pytest.fixture
def plain_malloc(monkeypatch):
    """What tunes the C library's would decide what a process keeps of what it freed."""
    for name in list(os.environ):
        if name.startswith(('MALLOC_', 'GLIBC_TUNABLES')):
            monkeypatch.delenv(name)


@pytest.mark.slow
def test_memory_of_model_and_run(other_module, plain_malloc):
    megabyte = 1_000_000
    found = peak_memory(other_module.build, 80 * megabyte, 300 * megabyte, 150 * megabyte)
    # What was needed for building alone is in none of them. Where the kernel hands out
    # huge pages, both are a few of these more.
    assert found.model == pytest.approx(80 * megabyte, abs=25 * megabyte)
    assert found.run == pytest.approx(150 * megabyte, abs=25 * megabyte)
    assert found.total == found.model + found.run


@pytest.mark.slow
def test_killed_process_is_an_error(other_module):
    with pytest.raises(MeasurementError, match='was killed'):
        peak_memory(other_module.die)
    with pytest.raises(OSError, match='no such thing'):
        peak_memory(other_module.fail)
