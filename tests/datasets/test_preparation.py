"""Pairs of files are prepared in parallel, and the report tells what is missing."""

import threading
from pathlib import Path

from mmseg_repvgg.datasets.preparation import Report, in_parallel, prepare
from mmseg_repvgg.errors import ImageError

IMAGE_LABEL = ('.png', 'l.png')
COUNTS = {'train': 30, 'val': 2}
FILES = {
    split: tuple(
        {f'{n:02}': Path(f'{n}{end}') for n in range(count)} for end in IMAGE_LABEL
    )
    for split, count in COUNTS.items()
}


def report(check=False):
    return Report(COUNTS, tuple(COUNTS), check, 'download it')


def test_only_a_subset_is_warned_about():
    whole = prepare(report(), FILES, lambda *item: False)
    assert whole.ready
    assert 'warning' not in str(whole)
    images, labels = ({n: p for n, p in f.items() if n != '00'} for f in FILES['train'])
    part = prepare(report(), {**FILES, 'train': (images, labels)}, lambda *item: False)
    assert part.ready
    assert 'warning: this is not the whole official set' in str(part)


def test_check_is_not_ready_if_something_is_to_be_made():
    assert prepare(report(), FILES, lambda *item: True).ready
    assert not prepare(report(check=True), FILES, lambda *item: True).ready


def test_many_problems_are_summarised():
    def fail(split, image, label):
        raise ImageError(f'{image} is broken')

    broken = prepare(report(), FILES, fail)
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
