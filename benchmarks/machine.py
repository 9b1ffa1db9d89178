"""Describe the machine of a measurement, and set its number of threads."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmseg_repvgg.errors import ConfigError
from repvgg_runtime.cores import usable_cores
from repvgg_runtime.environment import versions
from repvgg_runtime.processor import processor_name

_PACKAGES = (
    'mmseg_repvgg',
    'torch',
    'numpy',
    'onedl-mmsegmentation',
    'onedl-mmcv',
    'onedl-mmengine',
    'mmsegmentation',
    'mmcv',
    'mmengine',
    'onnxruntime',
    'openvino',
    'nncf',
    'ncnn',
    'pnnx',
)
_SETTINGS = (
    *('OMP_NUM_THREADS', 'OMP_WAIT_POLICY', 'OMP_PROC_BIND', 'KMP_AFFINITY'),
    *('GOMP_SPINCOUNT',),
    *('ONEDNN_MAX_CPU_ISA', 'ATEN_CPU_CAPABILITY', 'WINOGRAD_CXXFLAGS'),
)


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, versions, thread settings and commit, without any paths.

    Unknown values are None or left out.
    """
    installed = dict(versions())
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return {
        'processor': processor_name(),
        'vector_instructions': torch.backends.cpu.get_cpu_capability(),
        'cores': usable_cores(),
        'memory_gb': round(memory / 1e9, 1),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'cudnn': torch.backends.cudnn.version(),
        'cudnn_benchmark': torch.backends.cudnn.benchmark,
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'versions': {name: installed[name] for name in _PACKAGES if name in installed},
        'settings': {name: os.environ[name] for name in _SETTINGS if name in os.environ},
        'load': round(os.getloadavg()[0], 2),
        'commit': _commit(),
    }


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Set torch's number of threads within a block.

    Raises:
        ConfigError: If there are fewer cores, which each runtime handles differently.
    """
    cores = usable_cores()
    if not 1 <= threads <= cores:
        raise ConfigError(
            f'--threads must be from 1 to {cores}, the number of usable cores, but got '
            f'{threads}'
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _commit() -> str | None:
    """Return the commit of this checkout, marked as dirty if files were changed."""
    root = Path(__file__).parents[1]
    if not (root / '.git').exists():  # Installed, perhaps within another repository.
        return None
    command = ['git', '-C', str(root), 'describe', '--always', '--dirty']
    try:
        said = subprocess.run(
            [*command, '--abbrev=12'], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None if said.returncode == 0 else None
