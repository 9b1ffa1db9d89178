"""Differences are relative, and NaN never passes for agreement."""

import math

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_repvgg.errors import ConfigError, DeployError
from mmseg_repvgg.models.comparison import Comparison, check_fused, relative_difference


def test_difference_is_relative_to_the_largest_reference_value():
    reference = torch.tensor([1.0, -4.0])
    assert relative_difference(torch.tensor([3.0, -4.0]), reference) == 0.5
    assert relative_difference(reference, reference) == 0
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_difference(reference, torch.zeros(2)) > 1e20


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_is_compared(dtype):
    reference = torch.tensor([1.0, 2.0])
    assert relative_difference(reference.to(dtype) + 1, reference) == 0.5


@pytest.mark.parametrize(
    ('output', 'reference'),
    [(math.nan, 1.0), (1.0, math.nan), (math.inf, math.inf), (math.inf, 1.0)],
)
def test_nan_and_infinity_never_pass(output, reference):
    pair = torch.tensor([output, 1.0]), torch.tensor([reference, 1.0])
    assert not relative_difference(*pair) <= 1e30


def sample(value):
    logits = torch.full((2, 1, 1), value)
    labels = PixelData(data=torch.zeros(1, 1, 1))
    return SegDataSample(seg_logits=PixelData(data=logits), pred_sem_seg=labels)


def test_nan_in_a_later_batch_shows():
    found = Comparison()
    found.add([sample(2.0)], [sample(1.0)])
    assert found.logit_difference == 0.5
    for value in (math.nan, 2.0):
        found.add([sample(2.0)], [sample(value)])
        assert math.isnan(found.logit_difference)


def test_model_without_logits_is_refused():
    samples = [SegDataSample(pred_sem_seg=PixelData(data=torch.zeros(1, 1, 1)))]
    with pytest.raises(ConfigError, match='predicts no seg_logits'):
        Comparison().add(samples, samples)


class Predicts(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def test_step(self, batch):
        return [sample(self.value) for _ in batch['inputs']]


def test_fused_form_beyond_the_tolerance_is_refused():
    batch = dict(inputs=[torch.zeros(3, 1, 1)], data_samples=[])
    said = check_fused(Predicts(2.0), Predicts(2.01), batch, tolerance=0.01)
    assert 'by at most 5.0e-03 of their scale' in said
    for value in (2.1, math.nan):
        with pytest.raises(DeployError, match='more than tolerance=0.01'):
            check_fused(Predicts(2.0), Predicts(value), batch, tolerance=0.01)
