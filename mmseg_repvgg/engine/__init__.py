"""What a Runner gets: hooks, a sampler, an optimizer wrapper."""

from .autocast import BFloat16OptimWrapper
from .checkpoint_hook import CrashSafeCheckpointHook
from .deploy_hook import DeployHook
from .determinism import IterationSeedHook, PositionSampler, SeedSample
from .finite_hook import FiniteHook
from .load_hook import LoadHook
from .termination_hook import TerminationHook

__all__ = [
    'BFloat16OptimWrapper',
    'CrashSafeCheckpointHook',
    'DeployHook',
    'FiniteHook',
    'IterationSeedHook',
    'PositionSampler',
    'SeedSample',
    'LoadHook',
    'TerminationHook',
]
