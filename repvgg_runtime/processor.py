"""Name and instruction sets of the processor, as Linux gives them."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor_name() -> str:
    """Return the name of the processor, or its kind where the name is not known."""
    facts = _cpu_info()
    return facts.get('model name') or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Return all instruction sets and features by Linux's names; empty if unknown."""
    facts = _cpu_info()
    return (facts.get('flags') or facts.get('Features') or '').split()


def _cpu_info() -> dict[str, str]:
    """Return what is known of a core, by name."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return {}
    return dict(re.split(r'\s*:\s*', line, maxsplit=1) for line in lines if ':' in line)
