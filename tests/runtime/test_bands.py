"""TIFF files of any number of bands are read without change, or refused by name."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from repvgg_runtime import bands as module
from repvgg_runtime.bands import as_bands, read_bands, shown
from repvgg_runtime.errors import DataError, ExtraError, ImageError

tifffile = pytest.importorskip('tifffile')

IMAGE = np.random.default_rng(0).integers(0, 65536, (64, 96, 5), np.uint16)
FIRST = np.moveaxis(IMAGE, -1, 0)
# Size of a pixel, place of a corner, and the directory of keys.
GEO_TAGS = [
    (33550, 'd', 3, (10.0, 10.0, 0.0), True),
    (33922, 'd', 6, (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0), True),
    (34735, 'H', 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'field.tif'


def write(path, image, **options):
    options = {'photometric': 'minisblack', **options}
    tifffile.imwrite(path, image, **options)


@pytest.mark.parametrize(
    ('image', 'options'),
    [
        (IMAGE, dict(planarconfig='contig')),
        (FIRST, dict(planarconfig='separate')),
        (IMAGE, dict(planarconfig='contig', tile=(32, 32))),
        (FIRST, dict(planarconfig='separate', tile=(32, 32))),
        (IMAGE, dict(planarconfig='contig', rowsperstrip=7)),
        (IMAGE, dict(planarconfig='contig', tile=(16, 16), compression='zlib')),
        (IMAGE, dict(planarconfig='contig', byteorder='>')),
        (IMAGE, dict(planarconfig='contig', bigtiff=True)),
        (IMAGE, dict(planarconfig='contig', tile=(32, 32), extratags=GEO_TAGS)),
        (IMAGE, dict(planarconfig='contig', metadata=None)),
        (FIRST, {}),  # a page for each band
    ],
)
def test_every_layout_of_a_file_gives_the_same_bands(path, image, options):
    write(path, image, **options)
    found = read_bands(path, 5)
    assert found.dtype == np.uint16
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    assert np.array_equal(found, IMAGE)


@pytest.mark.parametrize('kind', module.TYPES)
def test_values_and_types_are_not_changed(path, kind):
    image = (IMAGE.astype(np.float64) / 7 - 300).astype(kind)
    write(path, image, planarconfig='contig')
    found = read_bands(path)
    assert found.dtype == kind
    assert np.array_equal(found, image)


def test_one_band_and_thin_images_keep_three_dimensions(path):
    write(path, IMAGE[:, :, 0])
    assert np.array_equal(read_bands(path, 1), IMAGE[:, :, :1])
    write(path, IMAGE[:1], planarconfig='contig')
    assert np.array_equal(read_bands(path, 5), IMAGE[:1])


@pytest.mark.parametrize('below', [0, 1])
def test_overviews_are_not_read(path, below):
    with tifffile.TiffWriter(path) as file:
        options = dict(planarconfig='contig', photometric='minisblack', metadata=None)
        file.write(IMAGE, subifds=below, **options)
        file.write(IMAGE[::2, ::2], subfiletype=1, **options)
    assert np.array_equal(read_bands(path), IMAGE)


def test_another_number_of_bands_is_refused_with_both_numbers(path):
    write(path, IMAGE, planarconfig='contig')
    with pytest.raises(
        ImageError, match=r'field\.tif has 5 bands, but the model takes 4'
    ):
        as_bands(path, 4)
    with pytest.raises(ImageError, match='the array has 5 bands, but the model takes 4'):
        as_bands(IMAGE, 4)


def test_a_file_that_claims_too_many_bands_takes_no_memory(path, monkeypatch):
    write(path, IMAGE, planarconfig='contig')
    monkeypatch.setattr(
        tifffile.TiffPageSeries, 'asarray', lambda self: pytest.fail('it was read')
    )
    with pytest.raises(ImageError, match='has 5 bands, but the model takes 4'):
        read_bands(path, 4)


@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    'options', [{}, dict(tile=(32, 32)), dict(rowsperstrip=8), dict(compression='zlib')]
)
def test_a_truncated_file_is_refused_by_name(path, options, share):
    # Without metadata, the directory comes before the data.
    write(path, IMAGE, planarconfig='contig', metadata=None, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match=r'field\.tif is truncated or not a TIFF file'):
        read_bands(path)


def test_a_file_that_ends_between_tiles_is_refused(path):
    """tifffile alone reads zeros where a tile is missing."""
    write(path, IMAGE, planarconfig='contig', tile=(32, 32))
    with tifffile.TiffFile(path) as file:
        last = file.pages[0].dataoffsets[-1]
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(ImageError, match='ends before its last strip or tile'):
        read_bands(path)


def test_other_files_are_refused_by_name(path, tmp_path):
    Image.new('RGB', (2, 2)).save(tmp_path / 'a.png')
    with pytest.raises(ImageError, match=r'a\.png is truncated or not a TIFF file'):
        read_bands(tmp_path / 'a.png')
    with pytest.raises(DataError, match='does not exist'):
        read_bands(tmp_path / 'none.tif')
    os.mkfifo(path)
    with pytest.raises(ImageError, match='not a regular file'):
        read_bands(path)


def test_a_compression_that_needs_another_package_is_named(path):
    Image.fromarray(IMAGE[:, :, 0].astype(np.uint8)).save(path, compression='tiff_lzw')
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        with pytest.raises(ImageError, match='LZW.*pip install imagecodecs'):
            read_bands(path)
    else:
        assert read_bands(path, 1).shape == (64, 96, 1)


def test_types_and_values_that_no_model_can_take_are_refused(path):
    write(path, IMAGE.astype(np.float64), planarconfig='contig')
    with pytest.raises(ImageError, match='is of type float64: save it as uint8'):
        read_bands(path)
    holes = IMAGE.astype(np.float32)
    holes[3, 4, 1] = np.nan
    write(path, holes, planarconfig='contig')
    with pytest.raises(ImageError, match='values that are not finite'):
        read_bands(path)
    write(path, np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ImageError, match='must have height, width and bands'):
        read_bands(path)


def test_a_file_that_claims_a_huge_image_is_refused(path, monkeypatch):
    write(path, IMAGE, planarconfig='contig')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    with pytest.raises(ImageError, match=r'is too large.*\(64, 96, 5\)'):
        read_bands(path)


def test_arrays_are_taken_and_pillow_images_refused():
    assert np.shares_memory(as_bands(IMAGE, 5), IMAGE)
    assert np.array_equal(as_bands(IMAGE[:, :, 0], 1), IMAGE[:, :, :1])
    swapped = IMAGE.astype('>u2')
    assert as_bands(swapped, 5).dtype.isnative
    assert np.array_equal(as_bands(swapped, 5), IMAGE)
    with pytest.raises(ImageError, match='got Image'):
        as_bands(Image.new('L', (2, 2)), 1)
    with pytest.raises(ImageError, match='not empty'):
        as_bands(IMAGE[:0], 5)


def test_without_tifffile_the_extra_is_named(path, monkeypatch):
    write(path, IMAGE, planarconfig='contig')
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    with pytest.raises(ExtraError, match=r"pip install 'mmseg_repvgg\[tiff\]'"):
        read_bands(path)


def test_a_picture_spreads_the_first_three_bands_over_8_bits():
    image = np.zeros((10, 100, 4), np.float32)
    image[:, :, 0] = np.arange(100) * 30 + 1000
    image[:, :, 1] = 7
    picture = shown(image)
    assert (picture.dtype, picture.shape) == (np.uint8, (10, 100, 3))
    red = picture[0, :, 2].astype(int)
    assert (red[:2] == 0).all()
    assert (red[-2:] == 255).all()
    assert (np.diff(red[2:-2]) > 0).all()
    assert (picture[:, :, :2] == 0).all()
    grey = shown(image[:, :, :2])
    assert np.array_equal(grey, np.repeat(picture[:, :, 2:], 3, 2))
    usual = np.zeros((2, 2, 3), np.uint8)
    assert shown(usual) is usual
