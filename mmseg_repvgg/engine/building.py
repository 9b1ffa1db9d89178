"""Mistakes in a config that show only when something is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import mmengine
from mmengine.config import Config

from ..errors import ConfigError

_MISTAKES = re.compile(
    r'unexpected keyword argument|is not in the \S+ registry|missing .* required'
)
_HANDED_ON = re.compile(r"__init__\(\) got an unexpected keyword argument '(\w+)'")
_MMENGINE = Path(mmengine.__file__).parent


@contextmanager
def building(cfg: Config) -> Iterator[None]:
    """Say of a mistake that mmengine met in building something that it is the config's.

    What code of the user's, or ours, gets wrong stays as it is, traceback and all.

    Args:
        cfg: The config that things are built from.

    Raises:
        ConfigError: For an argument or a type that there is not, one that is missing, or
            a package that is not installed.
    """
    try:
        yield
    except ImportError as error:
        if not _is_of_mmengine(_origin(error)):
            raise
        raise ConfigError(f'{error}. Or take what needs it out of the config') from error
    except (KeyError, TypeError) as error:
        text = str(error.args[0]) if error.args else ''
        if not _MISTAKES.search(text) or not _is_of_config(text, _origin(error), cfg):
            raise
        # Of what mmengine says of a type, the rest is advice on registering one.
        raise ConfigError(
            f'{text.partition(". ")[0]}. Look for that name in the config, in what it '
            'inherits (a dict with _delete_=True inherits nothing) and in --cfg-options'
        ) from error


def _origin(error: BaseException) -> FrameType:
    """Where an exception was raised: for a call that does not fit, the caller."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame


def _is_of_mmengine(frame: FrameType) -> bool:
    return _MMENGINE in Path(frame.f_code.co_filename).parents


def _is_of_config(text: str, origin: FrameType, cfg: Config) -> bool:
    if _is_of_mmengine(origin):
        return True
    # A constructor that hands on to its parent's what it does not know itself.
    name = _HANDED_ON.search(text)
    constructor = origin.f_code.co_name == '__init__'
    return constructor and name is not None and _has(cfg.to_dict(), name[1])


def _has(cfg: Any, name: str) -> bool:
    """Tell whether there is such a key anywhere in a config."""
    if isinstance(cfg, Mapping):
        return name in cfg or any(_has(value, name) for value in cfg.values())
    return isinstance(cfg, (list, tuple)) and any(_has(value, name) for value in cfg)
