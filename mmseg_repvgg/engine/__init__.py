"""Launching, processes, precision and gradient accumulation around a Runner."""

from .accumulation import AccumulatingTrainLoop
from .fused_decay import FusedDecayConstructor
from .precision import AutocastOptimWrapper
from .rep_optimizer import RepOptimizerConstructor
from .visualization import OptionalTensorboardVisBackend

__all__ = [
    'AccumulatingTrainLoop',
    'AutocastOptimWrapper',
    'FusedDecayConstructor',
    'OptionalTensorboardVisBackend',
    'RepOptimizerConstructor',
]
