"""Metrics of confusion matrices are those of mmseg."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmseg_repvgg.report.confusion import (
    accuracy,
    iou,
    largest_confusions,
    mean,
    precision,
    recall,
)


def test_metrics_are_those_of_mmseg():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 4, (2, 30, 40))
    truth[:3] = 255
    areas = IoUMetric.intersect_and_union(*map(torch.tensor, (labels, truth)), 5, 255)
    found = IoUMetric.total_area_to_metrics(*areas, ['mIoU', 'mFscore'])
    counted = truth != 255
    confusion = np.zeros((5, 5), np.int64)
    np.add.at(confusion, (truth[counted], labels[counted]), 1)
    assert accuracy(confusion) == pytest.approx(float(found['aAcc']))
    pairs = [(iou, 'IoU'), (recall, 'Acc'), (precision, 'Precision')]
    for metric, name in pairs:
        ours = metric(confusion)
        assert np.isnan(ours[4])
        assert ours == pytest.approx(found[name], nan_ok=True, rel=1e-6)
        assert mean(ours) == pytest.approx(np.nanmean(found[name]), rel=1e-6)


def test_confusions_are_ordered_and_leave_out_what_is_right_or_never_happens():
    confusion = np.array([[9, 2, 0], [5, 9, 0], [0, 1, 9]])
    assert largest_confusions(confusion, 2) == [(1, 0, 5), (0, 1, 2)]
    assert largest_confusions(confusion, 9) == [(1, 0, 5), (0, 1, 2), (2, 1, 1)]


def test_no_pixels_have_no_metrics():
    nothing = np.zeros((3, 3), np.int64)
    assert np.isnan([accuracy(nothing), mean(iou(nothing))]).all()
