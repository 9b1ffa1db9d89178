"""The paper's protocol, and the clock, memory and graphs of a GPU that is not at hand."""

import contextlib
from types import SimpleNamespace

import torch
from torch import nn

from benchmarks import runtimes
from benchmarks.benchmark import PROTOCOLS
from benchmarks.memory import PeakMemory, run_on_gpu
from benchmarks.report import Protocol
from benchmarks.runtimes import FORMS
from benchmarks.timing import time_alternating


def test_paper_protocol():
    assert PROTOCOLS['paper'] == Protocol(16, (713, 713), 2, 50, budget=420)


class Event:
    """CUDA's events tell milliseconds, once the later one has come."""

    clock = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.clock

    def synchronize(self):
        self.come = True

    def elapsed_time(self, end):
        assert end.come
        return end.at - self.at


def test_time_on_a_gpu_is_between_events(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'Event', Event)

    def work():
        Event.clock += 40.0

    timings = time_alternating({'a': work}, warmup=1, rounds=3, device='cuda')
    assert timings.seconds == {'a': [0.04] * 3}


def test_memory_on_a_gpu_is_that_of_the_allocator(monkeypatch):
    held, peak = [100], [0]

    def take(size, kept):
        peak[0] = max(peak[0], held[0] + size)
        held[0] += kept

    def build():
        # More than the run takes, but for building alone.
        take(50, 7)
        return lambda: take(20, 3)

    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda: held[0])
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: peak[0])
    monkeypatch.setattr(
        torch.cuda, 'reset_peak_memory_stats', lambda: peak.__setitem__(0, held[0])
    )
    _, _, memory = run_on_gpu(build)
    assert memory == PeakMemory(100, 107, 127)
    assert (memory.model, memory.run) == (7, 20)


def test_cuda_graph_is_captured_once(monkeypatch):
    """CUDA's part is played by stand-ins that note what is asked of them."""
    asked = []

    class Graph:
        def pool(self):
            return 'the pool of all'

        def replay(self):
            asked.append('replay')

    @contextlib.contextmanager
    def noting(what):
        asked.append(what)
        yield
        asked.append(f'end of {what}')

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in dict(
        CUDAGraph=Graph,
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda _: noting('stream'),
        graph=lambda graph, pool=None: noting(f'capture into {pool}'),
    ).items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(runtimes, '_first_graph', Graph)
    network = nn.Conv2d(3, 4, 3)
    network.register_forward_hook(lambda *_: asked.append('run'))
    x = torch.ones(1, 3, 8, 8)
    run = FORMS['cuda-graphs'].make(SimpleNamespace(fused=network, input=x))
    assert asked == []
    first, second = run(), run()
    assert second is first
    assert torch.equal(first, network(x))
    ready = ['stream', 'run', 'run', 'run', 'end of stream']
    captured = [
        'capture into the pool of all',
        'run',
        'end of capture into the pool of all',
    ]
    assert asked == [*ready, *captured, 'replay', 'replay', 'run']
