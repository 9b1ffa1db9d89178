"""What preparing a data set says and how it takes its files."""

import threading
from pathlib import Path

from mmseg_repvgg.datasets.files import State
from mmseg_repvgg.datasets.preparing import Outcome, Pair, Report, in_parallel


def test_the_whole_official_set_is_no_subset():
    counts = {'train': 3, 'val': 2}
    outcomes = [
        Outcome(Pair(split, Path(f'{number}.png'), Path(f'{number}l.png')), State.KEPT)
        for split, count in counts.items()
        for number in range(count)
    ]
    report = Report(counts, tuple(counts), outcomes, check=False, advice='download')
    assert report.ready
    assert 'warning' not in str(report)
    part = Report(counts, tuple(counts), outcomes[1:], check=False, advice='')
    assert part.ready
    assert 'warning: a subset' in str(part)


def test_files_are_taken_side_by_side():
    both = threading.Barrier(2, timeout=120)  # broken if one waits for the other to end

    def meet(item):
        both.wait()
        return -item

    assert in_parallel(meet, range(4), 'meet', jobs=2) == [0, -1, -2, -3]
