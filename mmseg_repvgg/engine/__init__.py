"""What a Runner gets: hooks, a sampler, an optimizer wrapper."""

from .accumulating_loop import AccumulatingTrainLoop
from .checkpoint_hook import CrashSafeCheckpointHook
from .deploy_hook import DeployHook
from .determinism import IterationSeedHook, PositionSampler, SeedSample
from .finite_hook import FiniteHook
from .leaderboard import LabelIdFiles
from .load_hook import LoadHook
from .mean_loss_hook import MeanLossHook
from .precision import AutocastOptimWrapper
from .progress_hook import ProgressHook
from .same_buffers_hook import SameBuffersHook
from .sample_hook import SampleHook
from .termination_hook import TerminationHook
from .watching import OptionalTensorboardVisBackend

__all__ = [
    'AccumulatingTrainLoop',
    'AutocastOptimWrapper',
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
    'ProgressHook',
    'SameBuffersHook',
    'SampleHook',
    'TerminationHook',
]
