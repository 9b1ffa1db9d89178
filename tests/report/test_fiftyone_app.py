"""Samples of FiftyOne, where it is installed, and the error where it is not."""

import importlib.util

import numpy as np
import pytest

from mmseg_repvgg.errors import ExtraError
from mmseg_repvgg.report.fiftyone_app import fill_dataset
from mmseg_repvgg.report.statistics import Statistics

INSTALLED = importlib.util.find_spec('fiftyone') is not None


@pytest.mark.skipif(INSTALLED, reason='FiftyOne is installed')
def test_missing_package_is_named():
    with pytest.raises(ExtraError, match='fiftyone cannot be .*: pip install fiftyone$'):
        fill_dataset([], Statistics(4), 'abcd')


@pytest.mark.skipif(not INSTALLED, reason='FiftyOne is not installed, nor by CI')
def test_samples_have_masks_and_errors(make_segmented, tmp_path):
    images = [make_segmented(i, path=str(tmp_path / f'{i}.png')) for i in range(3)]
    images[2].truth[:] = 255
    statistics = Statistics(4)
    dataset = fill_dataset(iter(images), statistics, 'abcd')
    assert dataset.default_mask_targets == {1: 'a', 2: 'b', 3: 'c', 4: 'd'}
    worst = list(dataset.sort_by('error', reverse=True))
    assert len(worst) == 3
    assert worst[0].error >= worst[1].error
    for image, errors, sample in zip(images, statistics.images, dataset):
        assert sample.filepath == image.path
        truth = np.where(image.truth == 255, -1, image.truth) + 1
        assert np.array_equal(sample.truth.mask, truth)
        assert np.array_equal(sample.prediction.mask, image.labels + 1)
        assert sample.error == pytest.approx(errors.error, nan_ok=True)
