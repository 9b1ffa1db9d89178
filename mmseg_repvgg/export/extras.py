"""The packages of the extra ``export``, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import ExtraError


def require(name: str) -> Any:
    """Import an optional package.

    Args:
        name: Of the package, such as ``onnx``.

    Raises:
        ExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExtraError(
            f"{name} cannot be imported ({error}): pip install 'mmseg_repvgg[export]'"
        ) from error
