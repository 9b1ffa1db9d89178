"""What a Runner gets: hooks, a sampler, an optimizer wrapper."""

from .accumulating_loop import AccumulatingTrainLoop
from .autocast import BFloat16OptimWrapper
from .checkpoint_hook import CrashSafeCheckpointHook
from .deploy_hook import DeployHook
from .determinism import IterationSeedHook, PositionSampler, SeedSample
from .finite_hook import FiniteHook
from .leaderboard import LabelIdFiles
from .load_hook import LoadHook
from .mean_loss_hook import MeanLossHook
from .same_buffers_hook import SameBuffersHook
from .sample_hook import SampleHook
from .termination_hook import TerminationHook
from .watching import OptionalTensorboardVisBackend

__all__ = [
    'AccumulatingTrainLoop',
    'BFloat16OptimWrapper',
    'CrashSafeCheckpointHook',
    'DeployHook',
    'FiniteHook',
    'IterationSeedHook',
    'LabelIdFiles',
    'OptionalTensorboardVisBackend',
    'PositionSampler',
    'SeedSample',
    'LoadHook',
    'MeanLossHook',
    'SameBuffersHook',
    'SampleHook',
    'TerminationHook',
]
