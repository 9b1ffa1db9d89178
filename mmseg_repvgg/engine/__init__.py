"""Launching, precision and gradient accumulation: what surrounds a Runner."""

from .accumulating_loop import AccumulatingTrainLoop
from .leaderboard import LabelIdFiles
from .precision import AutocastOptimWrapper
from .visualization import OptionalTensorboardVisBackend

__all__ = [
    'AccumulatingTrainLoop',
    'AutocastOptimWrapper',
    'LabelIdFiles',
    'OptionalTensorboardVisBackend',
]
