"""Read from a checkpoint with which backbone it was trained."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from typing import Any


def trained_backbone(checkpoint: Any) -> dict[str, Any]:
    """Return the ``model.backbone`` of the config that a checkpoint was trained with.

    mmengine stores the config in ``meta['cfg']`` as the text of a Python file, which is
    parsed and never executed.

    Args:
        checkpoint: The content of a file.

    Returns:
        The fields that are literals; empty if the checkpoint has no such config.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    fields: dict[str, ast.expr] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and _assigns(statement, 'model'):
            fields = _fields(_fields(statement.value).get('backbone'))
    found = {}
    for name, value in fields.items():
        # The parser accepts {[]: 0} as a dict, which is a TypeError here.
        with contextlib.suppress(ValueError, TypeError):
            found[name] = ast.literal_eval(value)
    return found


def _assigns(statement: ast.Assign, name: str) -> bool:
    return any(isinstance(t, ast.Name) and t.id == name for t in statement.targets)


def _fields(value: ast.expr | None) -> dict[str, ast.expr]:
    """Return the fields of ``dict(...)`` or ``{...}``; mmengine writes either."""
    if isinstance(value, ast.Call):
        return {word.arg: word.value for word in value.keywords if word.arg}
    if isinstance(value, ast.Dict):
        return {
            key.value: item
            for key, item in zip(value.keys, value.values)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    return {}
