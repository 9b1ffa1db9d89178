"""The numbers of the paper's protocol, and the clock of a GPU that is not at hand."""

import torch

from mmseg_repvgg.analysis.benchmark_report import Protocol
from mmseg_repvgg.analysis.benchmarking import PROTOCOLS
from mmseg_repvgg.analysis.timing import time_alternating


def test_the_papers_protocol():
    assert PROTOCOLS['paper'] == Protocol(16, (713, 713), 50, 50)


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


def test_on_a_gpu_time_is_between_events(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'Event', Event)

    def work():
        Event.clock += 40.0

    timings = time_alternating({'a': work}, warmup=1, rounds=3, device='cuda')
    assert timings.seconds == {'a': [0.04] * 3}
