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
