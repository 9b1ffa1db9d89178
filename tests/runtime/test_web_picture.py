"""Pictures of the web page: their limits, overlays and downloads."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from repvgg_runtime.errors import ImageError
from repvgg_runtime.painting import blend, default_palette
from repvgg_runtime.segmenter import BaseSegmenter, Prediction
from repvgg_runtime.web_picture import (
    SHOWN_SIDE,
    Picture,
    check_picture,
    encode_labels,
    paint_classes,
    segment,
)


class FromValues(BaseSegmenter):
    """Labels each pixel by the values of its first two bands."""

    def __init__(self, count: int) -> None:
        classes = [f'class {index}' for index in range(count)]
        super().__init__(classes, default_palette(count), None)

    def predict(self, images, *, probabilities=False):
        count, found = len(self.classes), []
        for image in images:
            values = image[:, :, 0].astype(int) * 256 + image[:, :, 1]
            found.append(Prediction((values % count).astype(self.label_type)))
        return found


def encoded(image, kind='png', **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Picture(f'given.{kind}', file.getvalue())


@pytest.fixture
def noise():
    values = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize('count', [1, 19, 256, 300])
def test_labels_and_shares_are_those_of_the_segmenter(count, noise):
    segmenter, picture = FromValues(count), encoded(noise)
    found = segment(segmenter, picture)
    labels = segmenter(picture.pixels)
    with Image.open(io.BytesIO(found.label_png)) as saved:
        assert np.array_equal(np.asarray(saved), labels)
        names = json.loads(saved.text['classes'])
    assert names == {str(i): name for i, name in enumerate(segmenter.classes)}
    assert found.shares == {i: (labels == i).mean() for i in found.shares}
    assert sum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    overlay = found.overlay(segmenter.palette, found.shares, 0.3)
    assert np.array_equal(overlay, segmenter.overlay(picture.pixels, 0.3))


def test_classes_that_are_off_show_the_image(noise):
    image = np.asarray(noise)
    labels = np.arange(image[:, :, 0].size, dtype=np.uint8).reshape(30, 50) % 3
    palette = default_palette(3)
    painted = paint_classes(image, labels, palette, [0, 2], 0.5)
    off = labels == 1
    assert np.array_equal(painted[off], image[off])
    assert np.array_equal(painted[~off], blend(image, labels, palette, 0.5)[~off])
    assert np.array_equal(paint_classes(image, labels, palette, [], 1), image)


@pytest.mark.parametrize(
    'size', [(2 * SHOWN_SIDE, SHOWN_SIDE), (9, 2 * SHOWN_SIDE), (3 * SHOWN_SIDE, 1)]
)
def test_large_picture_is_shown_smaller_and_saved_whole(size):
    segmenter = FromValues(5)
    found = segment(segmenter, encoded(Image.new('RGB', size, (1, 2, 3))))
    assert max(found.shown.shape) == SHOWN_SIDE
    assert found.shown.shape[:2] == found.shown_labels.shape
    assert found.overlay(segmenter.palette, found.shares, 0.5).shape[1::-1] == size


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'bmp', 'gif', 'ppm', 'tiff', 'webp'])
def test_common_formats_pass(kind, noise):
    check_picture(encoded(noise, kind), 1500)
    with pytest.raises(ImageError, match=f'given.{kind} has 50x30 pixels, but at most'):
        check_picture(encoded(noise, kind), 1499)


def test_other_files_are_refused(noise):
    """Pillow would start a program for some formats, such as EPS."""
    for content in (b'', b'text', encoded(noise, 'eps').data, encoded(noise, 'ico').data):
        with pytest.raises(ImageError, match='is not an image that can be read'):
            check_picture(Picture('given', content), 10**6)


def test_picture_is_decoded_in_the_format_that_was_checked():
    """A file may be two pictures: Pillow takes this one for a Photo CD first."""
    data = encoded(Image.new('RGB', (4, 2)), 'webp').data.ljust(2048, b'\0') + b'PCD_'
    picture = Picture('given', data + bytes(96 * 2048 + 768 * 512 * 3))
    assert Image.open(io.BytesIO(picture.data)).size != (4, 2)
    check_picture(picture, 8)
    assert picture.pixels.shape == (2, 4, 3)


def test_picture_that_claims_billions_of_pixels_is_refused():
    header = encoded(Image.new('1', (1, 1)), 'ppm').data
    assert header.startswith(b'P4\n1 1\n')
    huge = header.replace(b'1 1', b'100000 100000')
    with pytest.raises(ImageError, match='more pixels than are allowed, which are 16'):
        check_picture(Picture('given', huge), 16_000_000)


def test_label_map_of_many_classes_has_16_bits():
    labels = np.array([[0, 299]], np.uint16)
    with Image.open(io.BytesIO(encode_labels(labels, ['name'] * 300))) as saved:
        assert saved.mode.startswith('I')
        assert np.asarray(saved).tolist() == [[0, 299]]
