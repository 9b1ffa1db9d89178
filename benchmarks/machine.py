"""Describe the machine of a measurement, and set its number of threads."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mmseg_repvgg.errors import ConfigError
from repvgg_runtime.cores import usable_cores

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
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        'processor': _line('/proc/cpuinfo', 'model name') or platform.processor(),
        'vector_instructions': torch.backends.cpu.get_cpu_capability(),
        'cores': usable_cores(),
        'memory_gb': _gigabytes(_line('/proc/meminfo', 'MemTotal')),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'cudnn': torch.backends.cudnn.version(),
        'cudnn_benchmark': torch.backends.cudnn.benchmark,
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'versions': versions,
        'settings': {name: os.environ[name] for name in _SETTINGS if name in os.environ},
        'load': round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None,
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


def _line(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    found = (line.split(':', 1)[1].strip() for line in lines if line.startswith(key))
    return next(found, None)


def _gigabytes(said: str | None) -> float | None:
    return round(int(said.split()[0]) * 1024 / 1e9, 1) if said else None


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
