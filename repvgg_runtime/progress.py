"""Show how far a command is, on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta


class Progress:
    """Writes the number of images, images per second and the time left to stderr.

    A terminal shows one line that changes, anything else gets a line every ten seconds.

    Args:
        total: Number of images, or None if it is not known.
        unit: What is counted.
    """

    def __init__(self, total: int | None, unit: str = 'images') -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._tty = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def add(self, count: int = 1) -> None:
        """Count images, and show the line if it is time to."""
        self.done += count
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._tty else 10):
            self._shown = now
            self._write(self.line())

    def line(self) -> str:
        """Return the line as it would be shown now."""
        rate = self.rate()
        of = '' if self.total is None else f' of {self.total}'
        text = f'{self.done}{of} {self.unit}, {rate:.1f} per second'
        if self.total is not None and self.done:
            left = timedelta(seconds=round((self.total - self.done) / rate))
            text += f', {left} left'
        return text

    def rate(self, count: int | None = None) -> float:
        """Return the images per second so far.

        Args:
            count: Number of images, such as those without the broken ones; by default all
                that were counted.
        """
        count = self.done if count is None else count
        return count / max(time.monotonic() - self._start, 1e-9)

    def close(self) -> None:
        """Clear the line of a terminal."""
        if self._tty:
            sys.stderr.write('\r\x1b[K')
            sys.stderr.flush()

    def _write(self, text: str) -> None:
        sys.stderr.write(f'\r{text}\x1b[K' if self._tty else f'{text}\n')
        sys.stderr.flush()
