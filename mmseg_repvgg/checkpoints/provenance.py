"""What a checkpoint says about the training that wrote it: read, never run."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from typing import Any


def trained_backbone(checkpoint: Any) -> dict[str, Any]:
    """Look up with which backbone a checkpoint was trained.

    mmengine keeps the config of a training in ``meta['cfg']``, as the text of a Python
    file.

    Args:
        checkpoint: As it was read.

    Returns:
        The fields of ``model.backbone`` that are plain values; empty if the checkpoint
        does not say.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    fields = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and _names(statement, 'model'):
            backbone = _arguments(statement.value).get('backbone')
            fields = {} if backbone is None else _arguments(backbone)
    found = {}
    for name, value in fields.items():
        # TypeError: {[]: 0} is a dict to the parser.
        with contextlib.suppress(ValueError, TypeError):
            found[name] = ast.literal_eval(value)
    return found


def _names(statement: ast.Assign, name: str) -> bool:
    return any(isinstance(t, ast.Name) and t.id == name for t in statement.targets)


def _arguments(call: ast.expr) -> dict[str, ast.expr]:
    """The fields of ``dict(...)`` or of ``{...}``; mmengine writes either."""
    if isinstance(call, ast.Call):
        return {word.arg: word.value for word in call.keywords if word.arg}
    if isinstance(call, ast.Dict):
        return {
            key.value: value
            for key, value in zip(call.keys, call.values)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    return {}
