"""Pairs of files are prepared in parallel, and the report tells what is missing."""

import threading
from pathlib import Path

from mmseg_repvgg.datasets.preparation import Pair, Report, in_parallel, prepare_pairs
from mmseg_repvgg.errors import ImageError

COUNTS = {'train': 30, 'val': 2}
PAIRS = [
    Pair(split, Path(f'{number}.png'), Path(f'{number}l.png'))
    for split, count in COUNTS.items()
    for number in range(count)
]


def report(check=False):
    return Report(COUNTS, tuple(COUNTS), check, 'download it')


def test_only_a_subset_is_warned_about():
    whole = prepare_pairs(PAIRS, lambda *pair: False, report())
    assert whole.ready
    assert 'warning' not in str(whole)
    part = prepare_pairs(PAIRS[1:], lambda *pair: False, report())
    assert part.ready
    assert 'warning: this is not the whole official set' in str(part)


def test_check_is_not_ready_if_something_is_to_be_made():
    assert prepare_pairs(PAIRS, lambda *pair: True, report()).ready
    assert not prepare_pairs(PAIRS, lambda *pair: True, report(check=True)).ready


def test_many_problems_are_summarised():
    def fail(split, image, label):
        raise ImageError(f'{image} is broken')

    broken = prepare_pairs(PAIRS, fail, report())
    assert not broken.ready
    text = str(broken).splitlines()
    assert text.count('9.png is broken') == 1
    assert 'train: 20 more such files' in text
    assert text[-2:] == ['download it', 'not ready']


def test_items_are_processed_in_parallel():
    both = threading.Barrier(2, timeout=120)  # broken if one waits for the other to end

    def meet(item):
        both.wait()
        return -item

    assert in_parallel(meet, range(4), 'meet', jobs=2) == [0, -1, -2, -3]
