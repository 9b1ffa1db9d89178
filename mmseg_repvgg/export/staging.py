"""Placement of exported files: complete and verified, or not at all."""

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

    Raises:
        WriteError: If a file cannot be written. The old files then are as they were.
    """
    stage = path.with_name(f'.{path.name}.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        (stage / 'old').mkdir(parents=True)
        yield stage / path.name
        _place(stage, path.parent)
    except UserError:
        raise
    except OSError as error:
        raise WriteError(
            f'{path} cannot be written: {error.strerror or error}. Free some space or '
            'choose another folder'
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _place(stage: Path, folder: Path) -> None:
    """Move a file, or a pair of weights and the graph that reads them, into a folder.

    A step that fails is undone. The old graph of a pair goes first and the new one comes
    last, so that a killed process leaves no graph beside the weights of another.
    """
    files = sorted(file for file in stage.iterdir() if file.is_file())
    moves = [(file, folder / file.name) for file in files]
    if len(files) > 1:
        old = [place for _, place in reversed(moves) if place.exists()]
        moves = [(place, stage / 'old' / place.name) for place in old] + moves
    for file in files:
        with open(file, 'rb') as written:
            os.fsync(written.fileno())
    with ExitStack() as undo:
        for source, target in moves:
            os.replace(source, target)
            undo.callback(os.replace, target, source)
        undo.pop_all()
