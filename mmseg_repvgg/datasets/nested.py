"""Data sets that have not looked for their files yet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmseg.registry import DATASETS


def innermost(cfg: Any) -> list[Any]:
    """Return the configs of the data sets that read files.

    Args:
        cfg: Config of a data set, or of one around others, such as ``RepeatDataset``,
            ``ConcatDataset`` or ``MultiImageMixDataset``.
    """
    inner = cfg.get('dataset') or cfg.get('datasets')
    if not inner:
        return [cfg]
    parts = inner if isinstance(inner, (list, tuple)) else [inner]
    return [each for part in parts for each in innermost(part)]


def can_wait(cfg: Mapping[str, Any]) -> bool:
    """Tell whether a data set can be built before it looks for its files.

    A ``BaseSegDataset`` can, but a child of it need not take the argument.

    Args:
        cfg: Config of the data set.
    """
    kind = cfg.get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    if 'data_prefix' not in cfg:
        return False
    if kind is None:
        return True  # Whoever builds it will say what is wrong.
    parameters = inspect.signature(kind).parameters.values()
    return any(p.name == 'lazy_init' or p.kind is p.VAR_KEYWORD for p in parameters)


def lazily(cfg: Mapping[str, Any]) -> Any:
    """Build a data set for what it knows of itself.

    Args:
        cfg: Config of the data set.

    Returns:
        The data set without a pipeline; if it can, it has not looked for its files yet.
    """
    arguments = {'lazy_init': True} if can_wait(cfg) else {}
    return DATASETS.build({**cfg, **arguments, 'pipeline': []})
