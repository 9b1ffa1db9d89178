"""What a tensor must be to be a weight."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def find_flaw(value: Tensor) -> str | None:
    """Return why a tensor cannot be a weight or a buffer, or None if it can.

    mmengine only logs that a tensor could not be copied, and leaves the module's own
    random weights in its place.
    """
    if value.layout is not torch.strided or value.is_nested:
        return 'is not a dense tensor'
    if value.is_meta:
        return 'is on the meta device, which holds no numbers'
    if value.is_quantized:
        return 'is quantized'
    if value.is_complex() or (value.is_floating_point() and value.dtype not in _FLOATS):
        return f'is of {value.dtype}'
    if value.nbytes > value.untyped_storage().nbytes():
        return 'has more elements than its memory'
    if not value.isfinite().all():
        return 'holds NaN or infinite numbers'
    return None
