"""Configs of data sets inside wrappers, and building them before they read files."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmseg.registry import DATASETS


def leaf_datasets(cfg: Any) -> list[Any]:
    """Return the configs of the innermost data sets, which read files.

    Args:
        cfg: Config of a data set, or of a wrapper such as ``RepeatDataset``,
            ``ConcatDataset`` or ``MultiImageMixDataset``.
    """
    inner = cfg.get('dataset') or cfg.get('datasets')
    if not inner:
        return [cfg]
    parts = inner if isinstance(inner, (list, tuple)) else [inner]
    return [each for part in parts for each in leaf_datasets(part)]


def supports_lazy_init(cfg: Mapping[str, Any]) -> bool:
    """Return whether a data set can be built without looking for its files.

    A subclass of ``BaseSegDataset`` need not accept ``lazy_init``.
    """
    kind = cfg.get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    if 'data_prefix' not in cfg:
        return False
    if kind is None:
        return True  # Building it raises an error that names the type.
    parameters = inspect.signature(kind).parameters.values()
    return any(p.name == 'lazy_init' or p.kind is p.VAR_KEYWORD for p in parameters)


def build_lazily(cfg: Mapping[str, Any]) -> Any:
    """Build a data set without a pipeline, to read its metainfo and paths.

    It has not looked for its files if it supports ``lazy_init``.
    """
    lazily = {'lazy_init': True} if supports_lazy_init(cfg) else {}
    return DATASETS.build({**cfg, **lazily, 'pipeline': []})
