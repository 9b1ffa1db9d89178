"""The expected calibration error is that of its definition."""

import numpy as np
import pytest

from mmseg_repvgg.report.calibration import Reliability


def test_error_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    confidence = rng.random(5000).astype(np.float32)
    confidence[:3] = 0, 1, np.nextafter(np.float32(1), np.float32(0))
    correct = rng.random(5000) < confidence**2
    found = Reliability(10)
    for part in np.array_split(np.arange(5000), 7):
        found.add(confidence[part], correct[part])
    expected = 0.0
    exact = confidence.astype(np.float64)
    for low in np.arange(10):
        inside = np.minimum(np.floor(exact * 10), 9) == low
        gap = abs(correct[inside].mean() - exact[inside].mean())
        expected += inside.mean() * gap
    assert found.expected_error() == pytest.approx(expected, rel=1e-12)
    assert found.pixels.sum() == 5000


def test_calibrated_and_overconfident_predictions():
    right, sure = np.arange(100) < 75, np.ones(100, np.float32)
    calibrated, overconfident = Reliability(), Reliability()
    calibrated.add(0.75 * sure, right)
    overconfident.add(sure, right)
    assert calibrated.expected_error() == pytest.approx(0, abs=1e-12)
    assert overconfident.expected_error() == pytest.approx(0.25)


def test_no_pixels_have_no_error():
    assert Reliability().expected_error() == 0
