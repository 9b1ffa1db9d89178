"""Statistics of images agree with a count over all pixels, in bounded memory."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from mmseg_repvgg.errors import CheckpointError, ConfigError
from mmseg_repvgg.report.boundary import NEAR_BANDS, distance_bands
from mmseg_repvgg.report.gallery import Gallery, draw_errors
from mmseg_repvgg.report.statistics import Statistics


def test_sums_are_those_of_a_count(make_segmented):
    statistics = Statistics(4)
    expected = np.zeros_like(statistics.confusion)
    differing = np.zeros(2)
    for seed in range(3):
        image = make_segmented(seed, block=16)
        errors = statistics.add(image)
        wrong = labelled = 0
        bands = distance_bands(image.truth)
        for place in np.ndindex(image.truth.shape):
            truth, label, band = image.truth[place], image.labels[place], bands[place]
            differing[int(band >= NEAR_BANDS)] += image.forms.labels[place]
            if truth != 255:
                expected[band, truth, label] += 1
                labelled, wrong = labelled + 1, wrong + (truth != label)
        assert (errors.labelled, errors.wrong) == (labelled, wrong)
        assert errors.error == wrong / labelled
        assert errors.differing == image.forms.labels.sum()
    assert np.array_equal(statistics.confusion, expected)
    assert statistics.differing.tolist() == differing.tolist()
    assert differing.all()
    assert statistics.reliability.pixels.sum() == expected.sum()
    assert statistics.regions.pixels.sum() == expected.sum()


def test_another_ignored_label(make_segmented):
    statistics = Statistics(4, ignore_index=2)
    image = make_segmented(0)
    image.truth[image.truth == 255] = 2
    statistics.add(image)
    assert not statistics.confusion[:, 2].any()
    assert not statistics.regions.regions[2].any()
    assert statistics.confusion.sum() == (image.truth != 2).sum()


def test_labels_of_no_class_do_not_count(make_segmented):
    statistics = Statistics(4, ignore_index=0)
    image = make_segmented(0)
    statistics.add(image)  # Holds 255, which is no class.
    assert statistics.confusion.sum() == ((image.truth > 0) & (image.truth < 4)).sum()


def test_image_without_labels_has_no_error(make_segmented):
    image = make_segmented(0)
    image.truth[:] = 255
    errors = Statistics(4).add(image)
    assert np.isnan([errors.error, errors.miou]).all()
    assert errors.labelled == 0


def test_a_class_that_the_data_set_lacks_is_named(make_segmented):
    with pytest.raises(ConfigError, match=r'class 3 in .*0\.png, .* 3 classes'):
        Statistics(3).add(make_segmented(0))


def test_a_network_that_diverged_is_an_error(make_segmented):
    image = make_segmented(0)
    forms = dataclasses.replace(image.forms, logits=float('nan'))
    confidence = image.confidence.copy()
    confidence[0, 0] = np.nan
    for change in (dict(forms=forms), dict(confidence=confidence)):
        with pytest.raises(CheckpointError, match=r'NaN or infinite .*/0\.png'):
            Statistics(4).add(dataclasses.replace(image, **change))


def test_memory_does_not_grow_with_the_number_of_images(make_segmented):
    shape = (192, 256)

    def peak(count):
        statistics = Statistics(4)
        gallery = Gallery(3, 400_000, draw_errors([[0, 0, 0]] * 4))
        tracemalloc.start()
        for index in range(count):
            image = make_segmented(index, shape)
            gallery.offer(index, statistics.add(image).error, image)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Less than one label map of four bytes a pixel more.
    assert peak(30) - peak(6) < 192 * 256 * 4
