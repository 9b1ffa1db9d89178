"""Finding the checkpoint to resume from, and naming files in errors."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ..errors import CheckpointError
from .files import read_note
from .mmengine_patch import read_ahead


def find_resumable(work_dir: str, trust: bool = False) -> str | None:
    """Find the newest checkpoint of a work dir that can be read whole.

    Args:
        work_dir: Where a training wrote ``last_checkpoint`` and ``iter_*.pth`` or
            ``epoch_*.pth``.
        trust: Unpickle whatever a file holds.

    Returns:
        Its path; None if the folder has no checkpoint.

    Raises:
        CheckpointError: If there are checkpoints but none can be read.
    """
    complaints = []
    for path in _newest_first(Path(work_dir)):
        try:
            _require_resumable(path, read_ahead(str(path), trust=trust))
        except CheckpointError as error:
            complaints.append(str(error))
            print_log(f'skipped when resuming: {error}', 'current', logging.WARNING)
        else:
            return str(path)
    if complaints:
        raise CheckpointError(
            f'none of the {len(complaints)} checkpoints in {work_dir} can be resumed '
            f'from; of the newest: {complaints[0]}'
        )
    return None


@contextlib.contextmanager
def naming_checkpoint(path: str | None) -> Iterator[None]:
    """Name the file in a complaint about what is in it."""
    try:
        yield
    except CheckpointError as error:
        if path is None or path in str(error):
            raise
        raise CheckpointError(f'{path}: {error}') from error


def _newest_first(folder: Path) -> list[Path]:
    """What ``last_checkpoint`` names, then the others by the time they were written."""
    last = Path(read_note(folder / 'last_checkpoint').strip())
    # A work dir may have been moved; its checkpoints then lie beside the file.
    first = [p for p in (last, folder / last.name) if os.path.isfile(p)][:1]
    folders = {folder, *(p.parent for p in first)}
    others = {
        path
        for place in folders
        for pattern in ('iter_*.pth', 'epoch_*.pth')
        for path in place.glob(pattern)
        if os.path.realpath(path) not in map(os.path.realpath, first)
    }
    return first + sorted(others, key=_written, reverse=True)


def _written(path: Path) -> int:
    """Return when a file was written; 0 for a dangling link."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _require_resumable(path: Path, checkpoint: Any) -> None:
    """Check that all is there that ``Runner.resume`` reads."""
    # Nothing is said of param_schedulers: a config without any saves none.
    parts = dict(meta=dict, state_dict=dict, message_hub=dict, optimizer=dict)
    for name, kind in parts.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(name), kind):
            raise CheckpointError(f'{path} is no checkpoint of a training: no {name}')
    if not all(isinstance(checkpoint['meta'].get(key), int) for key in ('epoch', 'iter')):
        raise CheckpointError(f'{path} does not say at which iteration it was saved')
