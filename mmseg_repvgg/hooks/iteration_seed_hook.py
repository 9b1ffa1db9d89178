"""Randomness that is a function of the seed and the position, so that resuming is exact.

mmengine stores no state of a random generator: after ``--resume`` dropout and
augmentation go on differently than they would have. Instead of storing states, of which
every worker process has its own, nothing here depends on what was drawn before: the
generators are seeded anew for each iteration and for each sample.
"""

from __future__ import annotations

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
    """Seed each training iteration from (seed, rank, iteration)."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Let a deterministic training use the operations that have no such form.

        PyTorch would stop at the backward pass of PSPNet's pooling on a GPU. Where the
        bins divide the map, as at 713x713, that one is deterministic nevertheless.
        """
        if torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(True, warn_only=True)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Seed all generators of this process."""
        seed_all(runner.seed, get_rank(), runner.iter)


class Position(int):
    """An index into a data set that knows its place in the stream of samples."""

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...]) -> Position:
        """Make an index."""
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Position, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class PositionSampler(InfiniteSampler):
    """An ``InfiniteSampler`` whose indices carry a seed for their sample.

    With ``SeedSample`` first in the pipeline, how a sample is augmented depends on the
    seed and on its place in the stream, on nothing else: not on the number of workers,
    and not on where a run was resumed.

    Args:
        **kwargs: As for ``InfiniteSampler``.
    """

    def _indices_of_rank(self) -> Iterator[int]:
        for count, index in enumerate(super()._indices_of_rank()):
            position = count * self.world_size + self.rank
            yield Position(index, (self.seed, position))


@TRANSFORMS.register_module()
class SeedSample(BaseTransform):
    """Seed the generators for one sample; stands first in a training pipeline."""

    def transform(self, results: dict) -> dict:
        """Seed from the index that ``PositionSampler`` gave, and pass ``results`` on.

        Raises:
            ConfigError: If another sampler gave the index.
        """
        index = results.get('sample_idx')
        if not isinstance(index, Position):
            raise ConfigError(
                "SeedSample needs the sampler dict(type='PositionSampler') in the "
                f'dataloader, and no data set around the data set (RepeatDataset, '
                f'ConcatDataset); it got the plain index {index!r}'
            )
        seed_all(*index.seed)
        return results
