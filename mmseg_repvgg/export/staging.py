"""Placement of exported files: complete and verified, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import UserError, WriteError


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield the path to write a file to; move it, and files beside it, when complete.

    The path is in a hidden folder beside the target. The next run overwrites a folder
    that a killed run left.

    Args:
        path: The target.

    Raises:
        WriteError: If a file cannot be written. The old files then are as they were.
    """
    stage = path.with_name(f'.{path.name}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        yield stage / path.name
        _move(sorted(file for file in stage.iterdir() if file.is_file()), path.parent)
    except UserError:
        raise
    except OSError as error:
        raise WriteError(
            f'{path} cannot be written: {error.strerror or error}. Free some space or '
            'choose another folder'
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move(files: list[Path], folder: Path) -> None:
    """Move a file, or a pair of weights and the graph that reads them, into a folder.

    A pair is replaced whole or not at all. The old graph is moved away first and the new
    graph comes last, so that a graph never lies beside the weights of another. A step
    that fails is undone. A process that is killed leaves no graph to open, and the old
    files as ``.NAME.old``.
    """
    places = [folder / file.name for file in files]
    old = [place.with_name(f'.{place.name}.old') for place in places]
    moves = list(zip(files, places))
    if len(files) > 1:
        kept = [(place, kept) for place, kept in zip(places, old) if place.exists()]
        moves = kept[::-1] + moves
    for file in files:
        with open(file, 'rb') as written:
            os.fsync(written.fileno())
    with ExitStack() as undo:
        for source, target in moves:
            os.replace(source, target)
            undo.callback(os.replace, target, source)
        undo.pop_all()
    for path in old:
        path.unlink(missing_ok=True)
