"""What the ``type`` of a config names, however it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Other projects have classes of the same names: mmpretrain a RepVGG.
_SCOPES = ('', 'mmseg_repvgg', 'mmseg', 'mmengine', 'mmcv', 'torch')


def kind_of(cfg: Mapping[str, Any]) -> str:
    """The bare name of the class that a config builds; empty if it names none.

    mmengine takes a name, one with its scope, such as ``mmseg.RepVGG``, and, in configs
    of the lazy style, the class itself.
    """
    return _full_name(cfg.get('type')).rpartition('.')[2]


def is_a(cfg: Mapping[str, Any], *names: str) -> bool:
    """Tell whether a config builds one of the classes of these bare names.

    That is one of the libraries that this package stands on, not of another project.
    """
    scope, _, name = _full_name(cfg.get('type')).rpartition('.')
    return name in names and scope.partition('.')[0] in _SCOPES


def _full_name(kind: Any) -> str:
    if isinstance(kind, str):
        return kind
    name = getattr(kind, '__name__', '')
    return f'{kind.__module__}.{name}' if name else ''
