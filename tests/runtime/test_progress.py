"""How far a command is, as it says."""

from repvgg_runtime import progress
from repvgg_runtime.progress import Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_line_gives_rate_and_time_left(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, 'monotonic', clock)
    shown = Progress(100)
    clock.now = 10
    shown.add(25)
    assert shown.line() == '25 of 100 images, 2.5 per second, 0:00:30 left'


def test_a_log_gets_a_line_every_ten_seconds(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress.time, 'monotonic', clock)
    shown = Progress(None, 'frames')
    for second in range(1, 25):
        clock.now = second
        shown.add()
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        '10 frames, 1.0 per second',
        '20 frames, 1.0 per second',
    ]


def test_broken_images_do_not_count_into_the_rate(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, 'monotonic', clock)
    shown = Progress(20)
    clock.now = 10
    shown.add(20)
    assert shown.rate(15) == 1.5
