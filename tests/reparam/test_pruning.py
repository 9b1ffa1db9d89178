"""Which channels are removed, and what makes up for them."""

import pytest
import torch
from torch.testing import assert_close

from mmseg_repvgg.reparam.pruning import damped, estimate, removal_steps


@pytest.fixture
def correlated():
    """Second moments of 12 channels that depend on each other, and their readers."""
    mixing = torch.randn(12, 12, dtype=torch.float64)
    x = (mixing @ torch.randn(12, 500, dtype=torch.float64)).relu()
    weight = torch.randn(20, 12, dtype=torch.float64)
    return x @ x.T / 500, weight


def error(moments, weight, removed):
    """Relative error of the best estimate of the outputs without some channels."""
    kept = [k for k in range(len(moments)) if k not in removed]
    moments, total = damped(moments), (weight @ moments @ weight.T).trace()
    part = moments[removed][:, kept] @ torch.linalg.inv(moments[kept][:, kept])
    rest = moments[removed][:, removed] - part @ moments[kept][:, removed]
    lost = weight[:, removed] @ rest @ weight[:, removed].T
    return float(lost.trace() / total)


def test_first_step_costs_least(correlated):
    moments, weight = correlated
    first, *_ = removal_steps(moments, weight.T @ weight, 1, 0.1)
    (best,) = first.channels
    errors = [error(moments, weight, [k]) for k in range(12)]
    assert errors[best] == min(errors)
    assert first.error == pytest.approx(errors[best], rel=0.01)


@pytest.mark.parametrize('multiple', [1, 4])
def test_errors_of_steps_add_up(correlated, multiple):
    moments, weight = correlated
    removed, total = [], 0
    for step in removal_steps(moments, weight.T @ weight, multiple, 0.3):
        removed += step.channels
        total += step.error
        # The total that errors relate to is without damping.
        assert total == pytest.approx(error(moments, weight, removed), rel=0.01)
    assert len(set(removed)) == len(removed) == 8


def test_steps_keep_multiples_and_the_least_share():
    moments = torch.eye(30, dtype=torch.float64)
    steps = removal_steps(moments, moments, 8, 0.5)
    assert [len(step.channels) for step in steps] == [6, 8]
    steps = removal_steps(moments, moments, 8, 0.1)
    assert [len(step.channels) for step in steps] == [6, 8, 8]


def test_channels_that_others_tell_are_removed_first(correlated):
    moments, weight = correlated
    mix = torch.zeros(14, 12, dtype=torch.float64)
    mix[:12] = torch.eye(12)
    mix[12, 3] = mix[13, 5] = 2
    moments = mix @ moments @ mix.T
    weight = torch.cat([weight, 5 * weight[:, :2]], 1)
    first, second, *_ = removal_steps(moments, weight.T @ weight, 1, 0.1)
    (one,), (other,) = first.channels, second.channels
    pair = {3: 0, 12: 0, 5: 1, 13: 1}
    assert {pair[one], pair[other]} == {0, 1}
    assert second.error < 1e-3
    kept = [k for k in range(14) if k not in (12, 13)]
    factors = estimate(moments, [12, 13], kept)
    assert_close(
        factors[[3, 5]], 2 * torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0
    )
    assert factors.abs().sum() < 4.1


def test_dead_channels_cost_nothing(correlated):
    moments, weight = correlated
    moments[4] = moments[:, 4] = 0
    first, *_ = removal_steps(moments, weight.T @ weight, 1, 0.1)
    assert first.channels == [4]
    assert first.error < 1e-2
