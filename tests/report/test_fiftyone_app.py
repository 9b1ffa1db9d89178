"""Samples of FiftyOne, where it is installed, and the error where it is not.

The app itself is not tested: it needs a MongoDB server.
"""

import importlib.util

import numpy as np
import pytest

from mmseg_repvgg.errors import ExtraError
from mmseg_repvgg.report.fiftyone_app import make_sample, open_app
from mmseg_repvgg.report.statistics import Statistics

INSTALLED = importlib.util.find_spec('fiftyone') is not None


@pytest.mark.skipif(INSTALLED, reason='FiftyOne is installed')
def test_missing_package_is_named():
    with pytest.raises(ExtraError, match='fiftyone cannot be .*: pip install fiftyone$'):
        open_app([], Statistics(4), 'abcd')


@pytest.mark.skipif(not INSTALLED, reason='FiftyOne is not installed, nor by CI')
def test_samples_have_masks_and_errors(make_segmented, tmp_path):
    image = make_segmented(0, path=str(tmp_path / '0.png'))
    statistics = Statistics(4)
    sample = make_sample(image, statistics)
    assert sample.filepath == image.path
    truth = np.where(image.truth == 255, -1, image.truth) + 1
    assert np.array_equal(sample.truth.mask, truth)
    assert np.array_equal(sample.prediction.mask, image.labels + 1)
    assert sample.truth.mask.dtype == np.uint8
    (errors,) = statistics.images
    assert (sample.error, sample.miou) == (errors.error, errors.miou)
