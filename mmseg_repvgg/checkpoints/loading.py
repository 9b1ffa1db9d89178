"""Checkpoints of a training: find the newest, and read what backbone was trained."""

import ast
import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ..errors import CheckpointError
from .files import read_note
from .mmengine_patch import read_ahead


def find_resumable(work_dir: str, trust: bool = False) -> str | None:
    """Find the newest intact checkpoint of a work dir.

    The folder holds ``last_checkpoint`` and ``iter_*.pth`` or ``epoch_*.pth``. Returns
    None if it has no checkpoint.

    Raises:
        CheckpointError: If there are checkpoints but none can be resumed from.
    """
    errors = []
    for path in _newest_first(Path(work_dir)):
        try:
            _require_resumable(path, read_ahead(str(path), trust=trust))
        except CheckpointError as error:
            errors.append(error)
            print_log(f'skipped when resuming: {error}', 'current', logging.WARNING)
        else:
            return str(path)
    if errors:
        raise CheckpointError(
            f'none of the {len(errors)} checkpoints in {work_dir} can be resumed from. '
            f'The newest: {errors[0]}'
        )
    return None


@contextlib.contextmanager
def naming_checkpoint(name: str | None) -> Iterator[None]:
    """Put a name, such as that of the file, before a ``CheckpointError`` without it."""
    try:
        yield
    except CheckpointError as error:
        if name is None or name in str(error):
            raise
        raise CheckpointError(f'{name}: {error}') from error


def _newest_first(folder: Path) -> list[Path]:
    """List the file that ``last_checkpoint`` names, then the others by age."""
    last = Path(read_note(folder / 'last_checkpoint').strip())
    # In a work dir that was moved or copied, the checkpoint lies beside last_checkpoint.
    first = [p for p in (folder / last.name, last) if os.path.isfile(p)][:1]
    others = {
        path
        for place in {folder, *(p.parent for p in first)}
        for pattern in ('iter_*.pth', 'epoch_*.pth')
        for path in place.glob(pattern)
        if os.path.realpath(path) not in map(os.path.realpath, first)
    }
    # A link may be dangling, so its own time counts.
    return first + sorted(others, key=lambda path: path.lstat().st_mtime, reverse=True)


def _require_resumable(path: Path, checkpoint: Any) -> None:
    """Check that a checkpoint has everything that ``Runner.resume`` reads."""
    # A config without param_schedulers saves none, so they may be missing.
    for name in ('meta', 'state_dict', 'message_hub', 'optimizer'):
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(name), dict):
            raise CheckpointError(f'{path} is no checkpoint of a training: no {name}')
    if not all(isinstance(checkpoint['meta'].get(key), int) for key in ('epoch', 'iter')):
        raise CheckpointError(f'{path} does not say at which iteration it was saved')


def trained_backbone(checkpoint: Any) -> dict[str, Any]:
    """Return the ``model.backbone`` of the config that a checkpoint was trained with.

    mmengine stores the config in ``meta['cfg']`` as the text of a Python file, which is
    parsed and never executed.

    Returns:
        The fields that are literals; empty if the checkpoint has no such config.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    fields: dict[Any, ast.expr] = {}
    if isinstance(text, str):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            for statement in ast.parse(text).body:
                match statement:
                    case ast.Assign([ast.Name('model')], model):
                        fields = _fields(_fields(model).get('backbone'))
    found = {}
    for name, value in fields.items():
        # The parser accepts {[]: 0} as a dict, which is a TypeError here.
        with contextlib.suppress(ValueError, TypeError):
            found[name] = ast.literal_eval(value)
    return found


def _fields(value: ast.expr | None) -> dict[Any, ast.expr]:
    """Return the fields of ``dict(...)`` or ``{...}``; mmengine writes either."""
    match value:
        case ast.Call(keywords=words):
            return {word.arg: word.value for word in words if word.arg}
        case ast.Dict(keys, values):
            named = zip(keys, values)
            return {key.value: v for key, v in named if isinstance(key, ast.Constant)}
    return {}
