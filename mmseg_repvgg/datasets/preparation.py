"""Prepare the images and label maps of a data set in parallel, and report the result.

The state of the work is read from the files themselves, so that an interrupted run goes
on where it stopped.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from prettytable import PrettyTable
from rich.console import Console
from rich.progress import track

from repvgg_runtime.cores import usable_cores

from ..errors import ConfigError, ImageError

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclass
class Report:
    """The outcome of preparing a data set.

    Attributes:
        expected: Number of images in each split of the official set.
        needed: Splits that need labels, and at least one image.
        check: Whether nothing was written.
        advice: What to do about missing and broken files.
        problems: For each split, what is wrong with a pair.
        sound: For each split, the number of pairs that are complete and not broken.
        changed: For each split, how many of them were written, or would be.
        packed: Number of files that a check found to be unpacked still.
    """

    expected: Mapping[str, int]
    needed: Sequence[str]
    check: bool
    advice: str
    problems: dict[str, list[str]] = field(default_factory=dict)
    sound: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    packed: int = 0

    @property
    def ready(self) -> bool:
        """Whether a training can start, for which no file may be broken."""
        undone = self.check and (self.packed or self.changed.total())
        return self._complete and not undone

    @property
    def _complete(self) -> bool:
        return not self.problems and all(self.sound[split] for split in self.needed)

    def __str__(self) -> str:
        """Return the report for a terminal, in several lines."""
        made = 'to make' if self.check else 'made now'
        table = PrettyTable(['split', 'official', 'sound', made, 'broken'], align='r')
        lines = [f'{self.packed} files are to be unpacked'] if self.packed else []
        for split, count in self.expected.items():
            problems, sound = self.problems.get(split, []), self.sound[split]
            table.add_row([split, count, sound, self.changed[split], len(problems)])
            lines += shorten(problems, f'{split}:')
            if split in self.needed and not sound:
                lines.append(f'{split}: no image with a sound label map')
        if self.sound != Counter(self.expected):
            lines.append(
                'warning: this is not the whole official set; do not compare results on '
                'it with published ones'
            )
        if not self._complete:
            lines.append(self.advice)
        lines.append('ready' if self.ready else 'not ready')
        return '\n'.join([table.get_string(), *lines])


SHOWN = 10
"""Problems that a message names one by one."""


def shorten(problems: list[str], prefix: str) -> list[str]:
    """Return the first problems and a count, after a prefix, of the rest."""
    rest = len(problems) - SHOWN
    return problems[:SHOWN] + ([f'{prefix} {rest} more such files'] if rest > 0 else [])


def prepare(
    report: Report,
    files: Mapping[str, tuple[Mapping[str, Path], Mapping[str, Path]]],
    convert: Callable[[str, Path, Path | None], bool],
    jobs: int | None = None,
) -> Report:
    """Prepare each image; a broken one is reported and does not stop the others.

    Args:
        report: The report to fill and return.
        files: For each split, the images and the label maps by their common names.
        convert: Prepares an image of a split and its label map, which is None only if the
            split needs none. Returns whether it wrote something, or would. Called from
            several threads.
        jobs: Number of threads, by default one per core.
    """
    # Cityscapes has label maps of its test images, which nothing needs.
    items = [
        (split, images.get(name), labels.get(name))
        for split, (images, labels) in files.items()
        for name in sorted({*images, *labels})
        if name in images or split in report.needed
    ]

    def outcome(item: tuple[str, Path | None, Path | None]) -> tuple[bool, str | None]:
        """Return whether something was written, and what is wrong."""
        split, image, label = item
        if image is None:
            return False, f'{label} has no image'
        if label is None and split in report.needed:
            return False, f'{image} has no label map'
        try:
            return convert(split, image, label), None
        except ImageError as error:
            return False, str(error)

    title = 'check' if report.check else 'prepare'
    outcomes = in_parallel(outcome, items, title, jobs)
    for (split, *_), (changed, problem) in zip(items, outcomes):
        if problem is None:
            report.sound[split] += 1
            report.changed[split] += changed
        else:
            report.problems.setdefault(split, []).append(problem)
    return report


def in_parallel(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    title: str,
    jobs: int | None = None,
) -> list[_Result]:
    """Call a function for each item in threads, with a progress bar on standard error.

    Reading, checksums and PNG coding release Python's lock. When the work is interrupted
    or the function raises, the running calls end and no further call begins. The results
    have the order of the items.

    Raises:
        ConfigError: If ``jobs`` is not positive; by default it is one per core.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f'jobs must be at least 1, but got {jobs}')
    with ThreadPoolExecutor(jobs or usable_cores()) as pool:
        try:
            results = pool.map(function, items)
            console = Console(stderr=True)
            return list(track(results, title, len(items), console=console))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
