"""Prepare the images and label maps of a data set in parallel, and report the result.

The state of the work is read from the files themselves, so that an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from prettytable import PrettyTable
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from repvgg_runtime.cores import usable_cores

from ..errors import ConfigError, ImageError

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')
# Printed of each split; a missing download would print thousands.
_MAX_PROBLEMS = 10


@dataclass(frozen=True)
class Pair:
    """An image and the file of its labels, one of which may be missing."""

    split: str
    image: Path | None
    label: Path | None


def pair_files(
    split: str, images: Mapping[str, Path], labels: Mapping[str, Path]
) -> list[Pair]:
    """Pair images with label maps by their keys."""
    names = sorted({*images, *labels})
    return [Pair(split, images.get(name), labels.get(name)) for name in names]


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
        packed: Files that ``check`` found to be unpacked still.
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
        return not any(self.problems.values()) and all(map(self.sound.get, self.needed))

    def __str__(self) -> str:
        """Return the report for a terminal, in several lines."""
        lines = [self._table()]
        if self.packed:
            lines.append(f'{self.packed} files are to be unpacked')
        for split, problems in self.problems.items():
            lines += problems[:_MAX_PROBLEMS]
            if more := len(problems) - _MAX_PROBLEMS:
                lines += [f'{split}: {more} more such files'] if more > 0 else []
        lines += [
            f'{split}: no image with a sound label map'
            for split in self.needed
            if not self.sound[split]
        ]
        if any(self.sound[split] != count for split, count in self.expected.items()):
            lines.append(
                'warning: this is not the whole official set; do not compare results on '
                'it with published ones'
            )
        if not self._complete:
            lines.append(self.advice)
        return '\n'.join([*lines, 'ready' if self.ready else 'not ready'])

    def _table(self) -> str:
        made = 'to make' if self.check else 'made now'
        table = PrettyTable(['split', 'official', 'sound', made, 'broken'], align='r')
        for split, count in self.expected.items():
            broken = len(self.problems.get(split, []))
            table.add_row([split, count, self.sound[split], self.changed[split], broken])
        return table.get_string()


def prepare_pairs(
    pairs: Sequence[Pair],
    convert: Callable[[Pair], bool],
    report: Report,
    jobs: int | None = None,
) -> Report:
    """Prepare each pair; a broken one is reported and does not stop the others.

    Args:
        pairs: Images and label maps.
        convert: Prepares a pair that has an image, and labels if its split needs them.
            Returns whether it wrote something, or would. Called from several threads.
        report: The report to fill.
        jobs: Number of threads, by default one per core.

    Returns:
        The report.
    """

    def prepare(pair: Pair) -> tuple[bool, str | None]:
        if pair.image is None:
            return False, f'{pair.label} has no image'
        if pair.label is None and pair.split in report.needed:
            return False, f'{pair.image} has no label map'
        try:
            return convert(pair), None
        except ImageError as error:
            return False, str(error)

    # Cityscapes has label maps of its test images, which nothing needs.
    pairs = [p for p in pairs if p.image is not None or p.split in report.needed]
    title = 'check' if report.check else 'prepare'
    for pair, (changed, problem) in zip(pairs, in_parallel(prepare, pairs, title, jobs)):
        if problem is None:
            report.sound[pair.split] += 1
            report.changed[pair.split] += changed
        else:
            report.problems.setdefault(pair.split, []).append(problem)
    return report


def require_same_size(pair: Pair, image: Sequence[int], labels: Sequence[int]) -> None:
    """Check that the label map of a pair has the size of its image.

    Args:
        pair: The files, for the error.
        image: Height and width of the image.
        labels: Height and width of the label map.

    Raises:
        ImageError: If the sizes differ.
    """
    if tuple(image) != tuple(labels):
        raise ImageError(
            f'{pair.label} has {labels[0]}x{labels[1]} pixels, but its image '
            f'{pair.image} has {image[0]}x{image[1]}'
        )


def in_parallel(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    title: str,
    jobs: int | None = None,
) -> list[_Result]:
    """Call a function for each item in threads, with a progress bar on standard error.

    Reading, checksums and PNG coding release Python's lock, and a thread finishes its
    file when the work is interrupted.

    Args:
        function: Called from several threads.
        items: Its arguments.
        title: Label of the bar.
        jobs: Number of threads, by default one per core.

    Returns:
        The results in the order of the items.

    Raises:
        ConfigError: If ``jobs`` is not positive.
        Exception: The first that the function raises; no further call begins.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f'jobs must be at least 1, but got {jobs}')
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    with bar, ThreadPoolExecutor(jobs or usable_cores()) as pool:
        try:
            futures = [pool.submit(function, item) for item in items]
            done = as_completed(futures)
            for future in bar.track(done, total=len(futures), description=title):
                future.result()
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                # The status of a command that Ctrl-C ended.
                raise SystemExit(130) from None
            raise
    return [future.result() for future in futures]
