"""Hooks for mmengine's Runner, one per module."""

from .checkpoint_hook import CrashSafeCheckpointHook
from .deploy_hook import DeployHook
from .finite_hook import FiniteHook
from .iteration_seed_hook import IterationSeedHook, PositionSampler, SeedSample
from .load_hook import LoadHook
from .mean_loss_hook import MeanLossHook
from .progress_hook import ProgressHook
from .same_buffers_hook import SameBuffersHook
from .sample_hook import SampleHook
from .termination_hook import TerminationHook

__all__ = [
    'CrashSafeCheckpointHook',
    'DeployHook',
    'FiniteHook',
    'IterationSeedHook',
    'LoadHook',
    'MeanLossHook',
    'PositionSampler',
    'ProgressHook',
    'SameBuffersHook',
    'SampleHook',
    'SeedSample',
    'TerminationHook',
]
