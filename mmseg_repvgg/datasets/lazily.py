"""Data sets that have not looked for their files yet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmseg.registry import DATASETS


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
