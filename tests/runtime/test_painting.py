"""Pictures of label maps."""

import numpy as np

from repvgg_runtime.painting import blend, default_palette, paint, side_by_side


def test_any_number_of_classes_is_painted():
    palette = [[i % 256, i // 256, 7] for i in range(300)]
    labels = np.array([[0, 255, 256, 299, 300, -1, 65535]])
    expected = [[0, 0, 7], [255, 0, 7], [0, 1, 7], [43, 1, 7], *[[0, 0, 0]] * 3]
    assert paint(labels, palette)[0, :, ::-1].tolist() == expected
    assert not paint(labels.astype(np.uint8), []).any()


def test_side_by_side_shrinks_without_mixing_labels():
    # Stripes of labels 0 and 3; 1 and 2 are what lies between.
    labels = np.tile(np.arange(1200) // 7 % 2 * 3, (600, 1))
    palette = [[10, 0, 0], [0, 20, 0], [0, 0, 30], [40, 40, 40]]
    image = np.full((50, 100, 3), 7, np.uint8)
    picture = side_by_side(image, [labels, labels], palette, max_width=350)
    assert picture.shape == (175, 3 * 350 + 2 * 4, 3)
    assert (picture[:, :350] == 7).all()
    colours = np.unique(picture[:, 354:704].reshape(-1, 3), axis=0)
    assert sorted(map(tuple, colours)) == [(0, 0, 10), (40, 40, 40)]


def test_an_overlay_mixes_image_and_colours():
    image = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1]])
    found = blend(image, labels, [[200, 0, 50], [100, 100, 100]], 0.25)
    assert found.tolist() == [[[88, 75, 125], [100, 100, 100]]]
    assert np.array_equal(blend(image, labels, [[200, 0, 50]], 0), image)


def test_default_colours_differ():
    colours = default_palette(100)
    assert len({tuple(colour) for colour in colours}) > 90


def test_image_truth_and_prediction_have_gaps_between_them():
    image = np.full((4, 6, 3), 7, np.uint8)
    labels = np.ones((4, 6), np.uint8)
    palette = [[255, 0, 0], [0, 255, 0]]
    picture = side_by_side(image, [labels * 0, labels], palette)
    assert picture.shape == (4, 6 * 3 + 2 * 4, 3)
    assert picture[0, 0].tolist() == [7, 7, 7]
    # The palette is RGB, the picture BGR.
    assert picture[0, 10].tolist() == [0, 0, 255]
    assert picture[0, -1].tolist() == [0, 255, 0]
