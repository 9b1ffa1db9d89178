"""Randomness is a function of the seed and the position."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmseg.registry import DATA_SAMPLERS, TRANSFORMS

from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.hooks.iteration_seed_hook import IterationSeedHook, Position, seed_all


def test_position_is_an_index_that_survives_pickling():
    index = Position(7)
    index.seed = (0, 3)
    index = pickle.loads(pickle.dumps(index))
    assert index == 7
    assert [*range(10)][index] == 7
    assert index.seed == (0, 3)


def test_seed_all_seeds_python_numpy_and_torch():
    def draw():
        import random

        return random.random(), np.random.rand(), float(torch.rand(1))

    seed_all(1, 2)
    first = draw()
    seed_all(1, 3)
    assert all(a != b for a, b in zip(first, draw()))
    seed_all(1, 2)
    assert draw() == first


def batches(cfg, workers, skip=0, count=4):
    loader = Runner.build_dataloader(
        {**cfg.train_dataloader, 'num_workers': workers}, seed=5
    )
    if skip:
        loader.sampler.skip(skip * loader.batch_size)
    return [batch['inputs'] for _, batch in zip(range(count), loader)]


def same(a, b):
    return all(torch.equal(x, y) for p, q in zip(a, b) for x, y in zip(p, q))


def test_augmentation_depends_neither_on_workers_nor_on_the_start(street_config):
    straight = batches(street_config, 0)
    assert same(straight, batches(street_config, 2))
    if hasattr(DATA_SAMPLERS.get('PositionSampler'), 'skip'):
        assert same(straight[2:], batches(street_config, 1, skip=2, count=2))
    assert not same(straight[:1], straight[1:2])


def test_a_missing_sampler_is_named():
    with pytest.raises(ConfigError, match='PositionSampler.*plain index 3'):
        TRANSFORMS.build(dict(type='SeedSample'))({'sample_idx': 3})


def test_a_deterministic_training_allows_other_operations():
    hook = IterationSeedHook()
    hook.before_train(None)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        hook.before_train(None)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
