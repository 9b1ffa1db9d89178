"""Mistakes in a config that show only when something is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConfigError

_MISTAKES = re.compile(
    r'unexpected keyword argument|is not in the \S+ registry|missing .* required'
)


@contextmanager
def building() -> Iterator[None]:
    """Say of a name that mmengine doesn't know that it is the config's.

    Raises:
        ConfigError: For an argument or a type that there is not, or one that is missing.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        text = str(error.args[0]) if error.args else ''
        if not _MISTAKES.search(text):
            raise
        # Of what mmengine says of a type, the rest is advice on registering one.
        raise ConfigError(
            f'{text.partition(". ")[0]}. Look for that name in the config and in '
            '--cfg-options'
        ) from error
