"""Images of any number of bands are normalized as mmseg normalizes those of three."""

import pytest
import torch
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

from mmseg_repvgg.errors import ConfigError

MEAN, STD = [10.0, 20.0, 30.0, 40.0, 50.0], [1.0, 2.0, 4.0, 5.0, 8.0]


def build(**options):
    return MODELS.build(dict(type='BandDataPreProcessor', **options))


def test_each_band_has_its_own_mean_and_deviation():
    image = torch.arange(5 * 4 * 6, dtype=torch.float32).view(5, 4, 6)
    found = build(mean=MEAN, std=STD)({'inputs': [image]})['inputs']
    for band in range(5):
        expected = (image[band] - MEAN[band]) / STD[band]
        torch.testing.assert_close(found[0, band], expected)


def test_three_bands_are_as_by_mmseg():
    image = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)
    options = dict(mean=MEAN[:3], std=STD[:3], bgr_to_rgb=True)
    ours = build(**options)({'inputs': [image]})['inputs']
    theirs = SegDataPreProcessor(**options)({'inputs': [image]})['inputs']
    assert torch.equal(ours, theirs)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ConfigError, match='have 5 and 3 values'):
        build(mean=MEAN, std=STD[:3])
