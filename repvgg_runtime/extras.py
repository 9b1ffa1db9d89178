"""Optional packages: imported when they are needed, and kept from logging."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import ExtraError


def require(name: str, extra: str | None = 'export') -> Any:
    """Import an optional package.

    Args:
        name: Name of the package, such as ``onnx``.
        extra: Extra of this project that installs the package; None if none does.

    Raises:
        ExtraError: If the package cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name if extra is None else f"'mmseg_repvgg[{extra}]'"
        raise ExtraError(
            f'{name} cannot be imported ({error}): pip install {package}'
        ) from error


@contextmanager
def quiet(*loggers: logging.Logger) -> Iterator[None]:
    """Suppress warnings, and what loggers say."""
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
