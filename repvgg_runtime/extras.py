"""Packages imported when they are needed, and kept from logging."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
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


def load_mmseg_repvgg() -> ModuleType:
    """Import ``mmseg_repvgg`` without what mmseg and mmcv say when they are imported.

    mmseg prints that it lacks an optional package, where a program may print JSON. mmcv
    advises to install ``mmcv``, which would overwrite ``onedl-mmcv``.
    """
    with redirect_stdout(io.StringIO()), quiet():
        return importlib.import_module('mmseg_repvgg')
