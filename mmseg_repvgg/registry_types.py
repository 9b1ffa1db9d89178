"""Look-ups of a config's ``type``: a name, such as ``mmseg.RepVGG``, or a class."""

from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry

# Other projects have classes of the same names, such as mmpretrain's RepVGG.
_SCOPES = ('', 'mmseg_repvgg', 'mmseg', 'mmengine', 'mmcv', 'torch')


def type_name(cfg: Mapping[str, Any]) -> str:
    """Return the bare name of the class that a config builds, empty if it has no type."""
    return _full_name(cfg.get('type')).rpartition('.')[2]


def is_a(cfg: Mapping[str, Any], *names: str) -> bool:
    """Return whether a config builds a class of one of these bare names in our scopes."""
    scope, _, name = _full_name(cfg.get('type')).rpartition('.')
    return name in names and scope.partition('.')[0] in _SCOPES


def builds(cfg: Mapping[str, Any], registry: Registry, parent: type) -> bool:
    """Return whether a config builds ``parent`` or a subclass of it."""
    found = cfg.get('type')
    found = registry.get(found) if isinstance(found, str) else found
    return isinstance(found, type) and issubclass(found, parent)


def _full_name(kind: Any) -> str:
    if isinstance(kind, str):
        return kind
    name = getattr(kind, '__name__', '')
    return f'{kind.__module__}.{name}' if name else ''
