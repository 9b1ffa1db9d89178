"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import ExtraError


def require(name: str, extra: str = 'export') -> Any:
    """Import an optional package.

    Args:
        name: Of the package, such as ``onnx``.
        extra: The extra of this project that installs it.

    Raises:
        ExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExtraError(
            f"{name} cannot be imported ({error}): pip install 'mmseg_repvgg[{extra}]'"
        ) from error
