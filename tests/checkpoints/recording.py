"""Recordings of other projects' nets, and the weights to fill them with.

A recording contains the keys and shapes of a real class's state dict and a few numbers
of its outputs. Its weights are drawn from the keys, so that they are the same when it is
recorded and when it is tested. `tests/peers.sh --record` writes the recordings.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / 'recorded'
SAMPLES = 8


def read(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((FOLDER / f'{name}.json.gz').read_bytes()))


def write(name: str, recording: dict[str, Any]) -> None:
    data = json.dumps(recording, separators=(',', ':')).encode()
    # Without a time stamp, equal recordings give equal files.
    (FOLDER / f'{name}.json.gz').write_bytes(gzip.compress(data, 9, mtime=0))


def fill(shapes: dict[str, Any]) -> dict[str, Tensor]:
    """Draw every tensor, seeded by its key; batch norms look as after training."""
    return {key: _draw(key, tuple(shape)) for key, shape in shapes.items()}


def _draw(key: str, shape: tuple[int, ...]) -> Tensor:
    # NumPy promises that the numbers of this generator never change.
    random = np.random.RandomState(crc32(key.encode()))
    name = key.rpartition('.')[2]
    if name == 'num_batches_tracked':
        return torch.tensor(random.randint(1, 1000))
    if name == 'running_var':
        values = random.uniform(0.5, 2, shape)
    elif name == 'weight' and len(shape) == 1:
        values = random.uniform(0.3, 0.9, shape)
    elif name == 'weight':
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    else:
        values = random.standard_normal(shape) * 0.2
    return torch.from_numpy(values.astype(np.float32))


def image(size: int = 64) -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).standard_normal((1, 3, size, size)))


def summary(output: Tensor) -> dict[str, Any]:
    """Summarize an output by its shape, its scale and a few evenly spaced numbers."""
    flat = output.detach().double().flatten()
    picked = flat[torch.linspace(0, len(flat) - 1, SAMPLES).long()]
    return {
        'shape': list(output.shape),
        'scale': _rounded(flat.abs().max()),
        'mean': _rounded(flat.abs().mean()),
        'samples': [_rounded(value) for value in picked],
    }


def _rounded(value: Tensor) -> float:
    """Drop the digits that depend on the number of threads."""
    return float(f'{float(value):.9g}')


def difference(output: Tensor, recorded: dict[str, Any]) -> float:
    """Return the largest difference from a recorded output, relative to its scale."""
    own = summary(output)
    assert own['shape'] == recorded['shape']
    numbers = [(own[k], recorded[k]) for k in ('scale', 'mean')]
    numbers += list(zip(own['samples'], recorded['samples'], strict=True))
    return max(abs(a - b) for a, b in numbers) / recorded['scale']
