"""What the ``type`` of a config names, however it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kind_of(cfg: Mapping[str, Any]) -> str:
    """The bare name of the class that a config builds; empty if it names none.

    mmengine takes a name, one with its scope, such as ``mmseg.RepVGG``, and, in configs
    of the lazy style, the class itself.
    """
    kind = cfg.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.rpartition('.')[2]


def is_a(cfg: Mapping[str, Any], *names: str) -> bool:
    """Tell whether a config builds one of the classes of these bare names."""
    return kind_of(cfg) in names
