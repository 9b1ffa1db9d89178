"""Launching, processes, precision and gradient accumulation around a Runner."""

from .accumulating_loop import AccumulatingTrainLoop
from .precision import AutocastOptimWrapper
from .visualization import OptionalTensorboardVisBackend

__all__ = [
    'AccumulatingTrainLoop',
    'AutocastOptimWrapper',
    'OptionalTensorboardVisBackend',
]
