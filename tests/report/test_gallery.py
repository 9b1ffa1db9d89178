"""The gallery keeps the highest scores, within its bytes."""

import cv2
import numpy as np
import pytest

from mmseg_repvgg.report.gallery import Gallery, draw_errors, draw_forms

PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]]


def decode(pane):
    picture = cv2.imdecode(np.frombuffer(pane.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (pane.height, pane.width, 3)
    return picture


def test_highest_scores_are_kept_in_order(make_segmented):
    image = make_segmented(0)
    gallery = Gallery(3, 10**6, draw_errors(PALETTE))
    scores = [0.1, 0.5, 0.3, float('nan'), 0.5, 0.0, 0.9]
    for index, score in enumerate(scores):
        gallery.offer(index, score, image)
    assert [index for index, _ in gallery.pictures()] == [6, 1, 4]


def test_images_without_errors_are_not_kept(make_segmented):
    gallery = Gallery(3, 10**6, draw_errors(PALETTE))
    gallery.offer(0, 0.0, make_segmented(0))
    gallery.offer(1, float('nan'), make_segmented(0))
    assert gallery.pictures() == []


def test_no_picture_is_kept_where_none_is_wanted(make_segmented):
    gallery = Gallery(0, 10**6, draw_errors(PALETTE))
    gallery.offer(0, 0.5, make_segmented(0))
    assert gallery.pictures() == []


@pytest.mark.parametrize(('limit', 'width'), [(10**6, 300), (60_000, 192), (0, 64)])
def test_panes_shrink_until_they_fit(make_segmented, limit, width):
    gallery = Gallery(2, limit, draw_errors(PALETTE))
    for index in range(2):
        gallery.offer(index, 1.0, make_segmented(index, (150, 300)))
    kept = [pane for _, panes in gallery.pictures() for pane in panes]
    assert {pane.width for pane in kept} == {width}
    if limit:
        assert sum(len(pane.data) for pane in kept) <= limit


def test_panes_show_image_truth_prediction_and_errors(make_segmented):
    image = make_segmented(0, error=0)
    image.truth[:] = image.labels
    image.labels[16:32, 16:32] = (image.truth[16:32, 16:32] + 1) % 4
    image.truth[32:, :16] = 255
    panes = draw_errors(PALETTE)(image, 1024)
    titles = [pane.title for pane in panes]
    assert titles == ['Image', 'Truth', 'Prediction', 'Wrong pixels']
    picture, truth, prediction, wrong = map(decode, panes)
    ignored = image.truth == 255
    colours = np.array([*PALETTE, [0, 0, 0]], np.uint8)[:, ::-1]
    assert np.array_equal(truth, colours[np.where(ignored, 4, image.truth)])
    assert np.array_equal(prediction, colours[image.labels])
    assert np.abs(picture.mean() - image.image.mean()) < 8
    # Compressed with loss, which blurs colours.
    red_minus_blue = wrong[..., 2].astype(int) - wrong[..., 0]
    assert red_minus_blue[18:30, 18:30].min() > 150
    assert np.abs(red_minus_blue[:, 40:]).max() < 30
    assert wrong[34:, :12].max() < 30


def test_pixels_that_differ_between_forms_are_marked(make_segmented):
    image = make_segmented(0)
    image.forms.labels[:] = False
    image.forms.labels[10, 20] = True
    (pane,) = draw_forms(image, 1024)
    picture = decode(pane).astype(int)
    red_minus_blue = picture[..., 2] - picture[..., 0]
    assert red_minus_blue[8:13, 18:23].min() > 60
    assert red_minus_blue[30:, 40:].max() < 60


def test_tall_image_shrinks_to_what_the_format_holds(make_segmented):
    picture = decode(draw_errors(PALETTE)(make_segmented(0, (20_000, 16)), 1024)[0])
    assert picture.shape == (16_383, 13, 3)


def test_image_of_five_bands_is_shown(make_segmented):
    image = make_segmented(0)
    bands = np.random.default_rng(0).random((24, 32, 5)).astype(np.float32)
    object.__setattr__(image, 'image', bands)
    picture = decode(draw_errors(PALETTE)(image, 1024)[0])
    assert picture.shape == (48, 64, 3)
    assert picture.std() > 30
