"""Hook, sampler and transform that make randomness a function of seed and position.

mmengine does not store the state of random generators, so dropout and augmentation would
differ after ``--resume``. Seeding the generators anew for each iteration and each sample
makes resuming exact without storing the states, of which every worker has its own.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import DATA_SAMPLERS, HOOKS, TRANSFORMS

from ..errors import ConfigError


def seed_all(*entropy: int) -> None:
    """Seed Python's, numpy's and torch's generators from any number of integers."""
    seeds = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Hook that seeds each training iteration from (seed, rank, iteration)."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Allow operations without a deterministic form in a deterministic training."""
        # PyTorch would stop at the backward pass of PSPNet's pooling on a GPU, which is
        # deterministic in fact where the bins divide the map, as at 713x713.
        if torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(True, warn_only=True)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Seed the generators of this process."""
        seed_all(runner.seed, get_rank(), runner.iter)


class Position(int):
    """An index into a data set, with a ``seed`` for the sample."""

    seed: tuple[int, ...]


@DATA_SAMPLERS.register_module()
class PositionSampler(InfiniteSampler):
    """An ``InfiniteSampler`` whose indices carry a seed for their sample.

    With ``SeedSample`` first in the pipeline, the augmentation of a sample depends only
    on the seed and on its position in the stream: neither on the number of workers nor
    on where a run was resumed.
    """

    def _indices_of_rank(self) -> Iterator[int]:
        for count, index in enumerate(super()._indices_of_rank()):
            position = Position(index)
            position.seed = (self.seed, count * self.world_size + self.rank)
            yield position


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """Transform that seeds the generators for one sample; the first of a pipeline.

    Raises:
        ConfigError: If another sampler than ``PositionSampler`` gave the index.
    """

    def transform(self, results: dict) -> dict:
        """Seed from the index that ``PositionSampler`` gave."""
        index = results.get('sample_idx')
        if not isinstance(index, Position):
            raise ConfigError(
                "SeedSample needs sampler=dict(type='PositionSampler') in the dataloader "
                'and a data set that no other wraps (RepeatDataset, ConcatDataset), but '
                f'got the plain index {index!r}'
            )
        seed_all(*index.seed)
        return results
