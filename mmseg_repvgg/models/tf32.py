"""TF32, the reduced precision in which a GPU may compute float32 convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32, which keeps 10 bits of a float32 number's 23.

    PyTorch allows it for convolutions and forbids it for matrix products by default.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    value: bool | str = allowed
    owners, name = (cudnn, matmul), 'allow_tf32'
    if hasattr(cudnn, 'conv'):
        # torch 2.9 added a setting that takes precedence over the older one.
        value = 'tf32' if allowed else 'ieee'
        owners, name = (cudnn.conv, matmul), 'fp32_precision'
    before = [getattr(owner, name) for owner in owners]
    for owner in owners:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, old in zip(owners, before):
            setattr(owner, name, old)
