"""What the preparation of every data set shares: parallel work, and a report of it.

What is done is told from the files themselves, by their contents: no list of them is
kept that could disagree.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from mmengine.logging import print_log
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from ..cores import usable_cores
from ..errors import ConfigError, DataError
from .files import State, make_folder

try:
    import fcntl
except ImportError:  # Only Unix has it.
    fcntl = None  # type: ignore[assignment]

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclass(frozen=True)
class Pair:
    """An image and the file its label map is made of; one of them may be missing."""

    split: str
    image: Path | None
    label: Path | None


@dataclass(frozen=True)
class Outcome:
    """What became of a pair.

    Attributes:
        pair: The pair.
        state: Of what is made of it; None if nothing can be.
        problems: What is wrong with its files, each naming one.
        void: Whether every pixel of its label map is ignored.
    """

    pair: Pair
    state: State | None = None
    problems: tuple[str, ...] = ()
    void: bool = False


@dataclass(frozen=True)
class Report:
    """What is there of a data set, and what is not.

    Attributes:
        expected: The images of each split of the official set.
        needed: The splits without which nothing can be trained or measured.
        outcomes: Of all pairs.
        check: Whether nothing was to be written.
        advice: Where what is missing is to be had, and how what is broken is mended.
        due: What else is to be done, in words.
        notes: Further remarks.
    """

    expected: Mapping[str, int]
    needed: Sequence[str]
    outcomes: Sequence[Outcome]
    check: bool
    advice: str
    due: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def ready(self) -> bool:
        """Whether all is there and made: a subset may be ready, a broken file is not."""
        made = all(outcome.state is not State.DUE for outcome in self.outcomes)
        return made and not self.due and self._sound

    @property
    def _sound(self) -> bool:
        """Whether nothing that is needed is broken or missing."""
        return not any(outcome.problems for outcome in self.outcomes) and all(
            self._complete(split) and not self._bare(split) for split in self.needed
        )

    def __str__(self) -> str:
        """The report for a terminal, of several lines."""
        lines = [*self._table(), *self.due, *self.notes]
        lines += [problem for outcome in self.outcomes for problem in outcome.problems]
        lines += [*self._missing(), *self._subset()]
        if not self._sound:
            lines.append(self.advice)
        lines.append('ready' if self.ready else 'not ready')
        return '\n'.join(lines)

    def _of(self, split: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.pair.split == split]

    def _complete(self, split: str) -> list[Pair]:
        pairs = (outcome.pair for outcome in self._of(split))
        return [pair for pair in pairs if pair.image and pair.label]

    def _bare(self, split: str) -> list[Path]:
        """The images without labels."""
        pairs = (outcome.pair for outcome in self._of(split))
        return [pair.image for pair in pairs if pair.image and not pair.label]

    def _lone(self, split: str) -> list[Path]:
        """The labels without images."""
        pairs = (outcome.pair for outcome in self._of(split))
        return [pair.label for pair in pairs if pair.label and not pair.image]

    def _table(self) -> Iterator[str]:
        form = '{:8}{:>16}{:>16}{:>10}{:>10}{:>10}'
        changed = 'to make' if self.check else 'made now'
        yield form.format('split', 'images', 'label maps', 'ready', changed, 'broken')
        for split, expected in self.expected.items():
            outcomes, complete = self._of(split), len(self._complete(split))
            states = Counter(outcome.state for outcome in outcomes)
            yield form.format(
                split,
                f'{complete + len(self._bare(split))} of {expected}',
                f'{complete + len(self._lone(split))} of {expected}',
                states[State.KEPT] + states[State.MADE],
                states[State.DUE] + states[State.MADE],
                sum(bool(outcome.problems) for outcome in outcomes),
            )

    def _missing(self) -> Iterator[str]:
        for split in self.expected:
            bare, lone = self._bare(split), self._lone(split)
            if bare:
                use = '' if split in self.needed else ' (no training needs them)'
                yield f'{split}: {len(bare)} images without labels{use}, as {bare[0]}'
            if lone:
                yield f'{split}: {len(lone)} labels without images, as {lone[0]}'
            if split in self.needed and not self._complete(split):
                yield f'{split}: not one image with its labels'

    def _subset(self) -> Iterator[str]:
        found = {split: len(self._complete(split)) for split in self.expected}
        if found != dict(self.expected):
            counts = ', '.join(
                f'{split} {found[split]} of {self.expected[split]}' for split in found
            )
            yield (
                f'warning: a subset, or another set than the official one ({counts}): '
                'what is measured on it compares with nothing published'
            )


def in_parallel(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    title: str,
    jobs: int | None = None,
) -> list[_Result]:
    """Call a function for each of many items, with a progress bar on standard error.

    Threads do: what takes time here (files, checksums, PNG) leaves Python's lock alone,
    and a thread ends what it writes when the work is stopped.

    Args:
        function: To be called from several threads.
        items: Its arguments.
        title: Stands before the bar.
        jobs: How many threads; by default one a core.

    Returns:
        The results in the order of the items.

    Raises:
        ConfigError: If ``jobs`` is not positive.
        Exception: The first that the function raised. No other call is begun then.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f'jobs must be at least 1, but got {jobs}')
    items = list(items)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    with bar, ThreadPoolExecutor(jobs or usable_cores()) as pool:
        try:
            futures = [pool.submit(function, item) for item in items]
            for future in bar.track(as_completed(futures), len(items), description=title):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the work between two files, with status 130 or 143."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous: dict[int, Any] = {}
    # Only the main thread can listen.
    with contextlib.suppress(ValueError):
        for caught in (signal.SIGINT, signal.SIGTERM):
            previous[caught] = signal.signal(caught, stop)
    try:
        yield
    except SystemExit:
        print_log('stopped; run it again and it goes on from here')
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def alone_in(folder: Path, check: bool) -> Iterator[None]:
    """Make a folder, and keep a second run on this machine out of it meanwhile.

    On Windows a second run is not kept out.

    Args:
        folder: Where files will be written.
        check: If true, do nothing.

    Raises:
        DataError: If another run is at work there.
        WriteError: If the folder cannot be made.
    """
    if check:
        yield
        return
    make_folder(folder)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f'another run is at work in {folder}; wait until it has ended'
            ) from error
        except OSError:
            pass  # Some network file systems lock no folder.
        yield
    finally:
        os.close(handle)
