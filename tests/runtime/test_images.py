"""Images are read as a viewer shows them, or refused by name."""

import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from repvgg_runtime.errors import DataError, ImageError
from repvgg_runtime.images import as_pixels, read_image

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
BGR = RGB[:, :, ::-1]


@pytest.fixture
def saved(tmp_path):
    def save(image, suffix='.png', **options):
        path = tmp_path / f'image{suffix}'
        image.save(path, **options)
        return path

    return save


def test_colours_are_in_the_order_of_opencv(saved):
    assert np.array_equal(read_image(saved(Image.fromarray(RGB))), BGR)


def test_orientation_of_exif_is_applied(saved):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    path = saved(Image.fromarray(RGB), exif=exif)
    assert np.array_equal(read_image(path), np.rot90(BGR, -1))


def test_16_bits_are_scaled_to_8(saved):
    grey = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    pixels = read_image(saved(Image.fromarray(grey)))
    assert pixels[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]
    assert (pixels == pixels[:, :, :1]).all()


def test_integers_beyond_16_bits_are_refused(saved):
    path = saved(Image.fromarray(np.array([[0, 70000]], np.int32)), '.tif')
    with pytest.raises(ImageError, match='from 0 to 70000: scale it to 8 or 16 bits'):
        read_image(path)


@pytest.mark.parametrize('kind', [np.int32, np.uint16])
def test_integers_that_would_be_black_are_refused(saved, kind):
    path = saved(Image.fromarray(np.array([[0, 200]], kind)), '.tif')
    with pytest.raises(ImageError, match='from 0 to 200: scale it to 8 or 16 bits'):
        read_image(path)


def test_formats_that_start_programs_are_not_decoded(saved):
    """Pillow would start Ghostscript for this one, whatever its suffix."""
    path = saved(Image.fromarray(RGB), format='EPS')
    with pytest.raises(ImageError, match=r'image\.png is truncated or not .* of BMP, '):
        read_image(path)


@pytest.mark.parametrize('error', [RuntimeError, NotImplementedError, AttributeError])
def test_whatever_a_decoder_raises_names_the_file(saved, monkeypatch, error):
    def broken(image):
        raise error('damaged')

    path = saved(Image.fromarray(RGB))
    monkeypatch.setattr(ImageOps, 'exif_transpose', broken)
    with pytest.raises(ImageError, match=r'image\.png is truncated .*damaged'):
        read_image(path)


@pytest.mark.parametrize('image', [None, 5, b'bytes'])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ImageError, match='a path, a Pillow image or an array, but got'):
        as_pixels(image)


def test_floats_are_refused(saved):
    path = saved(Image.fromarray(np.ones((2, 2), np.float32)), '.tif')
    with pytest.raises(ImageError, match='holds floats'):
        read_image(path)


def test_transparent_pixels_lie_on_white(saved):
    rgba = np.dstack([RGB, np.full((2, 3), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    pixels = read_image(saved(Image.fromarray(rgba)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(pixels[1], BGR[1])


def test_a_transparent_colour_of_a_palette_lies_on_white(saved):
    image = Image.new('P', (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    pixels = read_image(saved(image, transparency=1))
    assert pixels.tolist() == [[[30, 20, 10], [255, 255, 255]]]


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'CMYK', 'LA', 'YCbCr'])
def test_other_modes_look_as_pillow_shows_them(saved, mode):
    image = Image.fromarray(RGB).convert(mode)
    path = saved(image, '.png' if mode in ('1', 'L', 'P', 'LA') else '.jpg')
    expected = np.asarray(Image.open(path).convert('RGB'))[:, :, ::-1]
    assert np.array_equal(read_image(path), expected)


def test_the_first_frame_of_several_is_read(saved):
    frames = [Image.new('RGB', (2, 2), colour) for colour in ('red', 'blue')]
    path = saved(frames[0], '.gif', save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [0, 0, 255]


def test_a_truncated_file_is_refused_by_name(saved, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = saved(Image.fromarray(noise), '.jpg').read_bytes()
    (tmp_path / 'torn.jpg').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r'torn\.jpg is truncated or not an image'):
        read_image(tmp_path / 'torn.jpg')


def test_a_missing_file_and_a_pipe_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r'none\.png does not exist'):
        read_image(tmp_path / 'none.png')
    os.mkfifo(tmp_path / 'pipe.png')
    with pytest.raises(ImageError, match=r'pipe\.png cannot be read'):
        read_image(tmp_path / 'pipe.png')


def test_an_image_too_large_for_pillow_is_refused(saved, monkeypatch):
    path = saved(Image.fromarray(RGB))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2)
    with pytest.raises(ImageError, match='too large for Pillow'):
        read_image(path)


def test_paths_pillow_images_and_arrays_are_taken(saved):
    path = saved(Image.fromarray(RGB))
    for image in (path, str(path), Image.open(path), BGR):
        assert np.array_equal(as_pixels(image), BGR)
    assert np.array_equal(as_pixels(BGR[:, :, 0]), np.repeat(BGR[:, :, :1], 3, 2))


@pytest.mark.parametrize(
    'array', [BGR / 255, BGR[None], np.zeros((2, 2, 4), np.uint8), BGR.astype(int)]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError, match=r'of shape \(H, W, 3\), BGR'):
        as_pixels(array)


def test_an_empty_array_is_refused():
    with pytest.raises(ImageError, match='is empty'):
        as_pixels(BGR[:0])
