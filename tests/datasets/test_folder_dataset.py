"""Folders of your own images and masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_repvgg.datasets import FolderDataset
from mmseg_repvgg.datasets.folder_dataset import read_classes
from mmseg_repvgg.errors import ConfigError, DataError, ImageError

CLASSES = ('road', 'grass', 'sky')
PALETTE = [[128, 64, 128], [0, 160, 0], [70, 130, 180]]
PREFIX = dict(img_path='images', seg_map_path='masks')
STEPS = [dict(type='LoadCheckedImage'), dict(type='LoadCheckedAnnotations')]


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


@pytest.fixture
def labels():
    labels = np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8)
    labels[0, 0] = 255
    return labels


@pytest.fixture
def build(tmp_path):
    """Return a function that builds the data set of the folder."""

    def build(**options):
        metainfo = options.pop('metainfo', dict(classes=CLASSES, palette=PALETTE))
        return FolderDataset(
            metainfo=metainfo,
            data_root=str(tmp_path),
            data_prefix=dict(PREFIX),
            **{'pipeline': STEPS, **options},
        )

    return build


@pytest.fixture
def folder(tmp_path, labels):
    """Write three images with their masks, hidden ones, and a file that is no image."""
    for name in ('b.JPG', 'deep/a.png', 'c.tif', '.hidden.png', '.copies/a.png'):
        write(tmp_path / 'images' / name, np.zeros((20, 30, 3), np.uint8))
        write((tmp_path / 'masks' / name).with_suffix('.png'), labels)
    (tmp_path / 'images' / 'notes.txt').touch()
    return tmp_path


def test_images_of_all_suffixes_are_paired_with_masks(folder, build, labels):
    dataset = build()
    found = [dataset.get_data_info(i) for i in range(len(dataset))]
    names = [info['img_path'].removeprefix(f'{folder}/') for info in found]
    assert names == ['images/b.JPG', 'images/c.tif', 'images/deep/a.png']
    assert found[2]['seg_map_path'] == f'{folder}/masks/deep/a.png'
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], labels)
    assert dataset.metainfo['classes'] == CLASSES


def test_images_to_test_on_need_no_masks(folder):
    dataset = FolderDataset(
        metainfo=dict(classes=CLASSES),
        data_root=str(folder),
        data_prefix=dict(img_path='images'),
        pipeline=STEPS[:1],
        test_mode=True,
    )
    assert len(dataset) == 3
    assert dataset[0]['img'].shape == (20, 30, 3)
    assert 'seg_map_path' not in dataset[0]


def test_list_chooses_images_with_or_without_suffix(folder, build):
    (folder / 'train.txt').write_text('deep/a\n\nb.JPG\n')
    dataset = build(ann_file='train.txt')
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    assert [path.rpartition('/')[2] for path in paths] == ['a.png', 'b.JPG']
    (folder / 'train.txt').write_text('b\nmissing.jpg\n')
    with pytest.raises(DataError, match=r'train.txt lists missing\.jpg'):
        build(ann_file='train.txt')
    with pytest.raises(DataError, match='list of images .*val.txt does not exist'):
        build(ann_file='val.txt')
    (folder / 'train.txt').write_text('b.JPG\n', encoding='utf-8-sig')
    assert len(build(ann_file='train.txt')) == 1
    (folder / 'train.txt').write_text('grün\n', encoding='latin-1')
    with pytest.raises(DataError, match='train.txt is not in UTF-8'):
        build(ann_file='train.txt')


def test_two_images_of_one_name_are_refused(folder, build):
    write(folder / 'images' / 'b.png', np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DataError, match=r'b\.JPG and .*b\.png would have the same mask'):
        build()


@pytest.mark.parametrize('channels', [3, 4])
def test_colours_are_mapped_to_labels(folder, build, labels, channels):
    colors = np.array([*PALETTE, *[[0, 0, 0]] * 253], np.uint8)[labels][..., ::-1]
    if channels == 4:
        colors = np.dstack([colors, np.full(labels.shape, 9, np.uint8)])
    write(folder / 'masks' / 'b.png', colors)
    np.testing.assert_array_equal(
        build(ignored_colors=[[0, 0, 0]])[0]['gt_seg_map'], labels
    )
    with pytest.raises(ImageError, match=r'masks/b\.png .*\(0, 0, 0\).* of no class'):
        build()[0]


def test_steps_of_mmseg_know_the_colours(folder, build, labels):
    """mmseg's own tools build the pipelines of our configs as they are."""
    colors = np.array([*PALETTE, *[[0, 0, 0]] * 253], np.uint8)[labels][..., ::-1]
    write(folder / 'masks' / 'b.png', colors)
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    found = build(ignored_colors=[[0, 0, 0]], pipeline=steps)[0]
    np.testing.assert_array_equal(found['gt_seg_map'], labels)


def test_greys_of_one_channel_are_colours_if_the_palette_is_grey(folder, build, labels):
    greys = np.where(labels == 1, 255, 0).astype(np.uint8)
    write(folder / 'masks' / 'b.png', greys)
    metainfo = dict(classes=('ground', 'road'), palette=[[0, 0, 0], [255, 255, 255]])
    found = build(metainfo=metainfo)[0]['gt_seg_map']
    np.testing.assert_array_equal(found, labels == 1)
    write(folder / 'masks' / 'b.png', greys // 255)
    with pytest.raises(ImageError, match=r'\(1, 1, 1\).* of no class'):
        build(metainfo=metainfo)[0]


def test_colours_of_a_palette_are_colours(folder, build, labels):
    colors = np.array([*PALETTE, *[[0, 0, 0]] * 253], np.uint8)[labels]
    image = Image.fromarray(colors).quantize(4)
    assert image.mode == 'P'
    image.save(folder / 'masks' / 'b.png')
    found = build(ignored_colors=[[0, 0, 0]])[0]['gt_seg_map']
    np.testing.assert_array_equal(found, labels)
    # Class numbers with the colours of a viewer.
    image = Image.fromarray(labels).convert('P')
    image.putpalette(np.random.default_rng(0).bytes(768))
    image.save(folder / 'masks' / 'b.png')
    with pytest.raises(ImageError, match='of no class. If it holds class numbers'):
        build()[0]
    # Grey values of the class numbers.
    image.putpalette(np.arange(256, dtype=np.uint8).repeat(3).tobytes())
    image.save(folder / 'masks' / 'b.png')
    np.testing.assert_array_equal(build()[0]['gt_seg_map'], labels)


def test_masks_of_one_bit_are_black_and_white(folder, build, labels):
    Image.fromarray(labels == 1).save(folder / 'masks' / 'b.png')
    for more in (dict(palette=[[0, 0, 0], [255, 255, 255]]), {}):
        metainfo = dict(classes=('ground', 'road'), **more)
        found = build(metainfo=metainfo)[0]['gt_seg_map']
        np.testing.assert_array_equal(found, labels == 1)


def test_links_to_folders_are_followed(folder, build):
    for kind in ('images', 'masks'):
        (folder / kind / 'deep').rename(folder / f'{kind}_elsewhere')
        (folder / kind / 'deep').symlink_to(folder / f'{kind}_elsewhere')
        (folder / kind / 'loop').symlink_to(folder / kind)
    dataset = build()
    names = [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]
    assert names == ['b.JPG', 'c.tif', 'a.png']


def test_colours_without_a_palette_are_refused(folder, build, labels):
    write(folder / 'masks' / 'b.png', np.dstack([labels] * 3))
    with pytest.raises(ImageError, match='b.png .*colours are not labels'):
        build(metainfo=dict(classes=CLASSES))[0]


def test_classes_are_needed(build):
    with pytest.raises(ConfigError, match='needs the names of the classes'):
        build(metainfo=None)


# Files of classes ---------------------------------------------------------------------


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / 'classes.txt').write_text(text, encoding='utf-8')
        return read_classes(tmp_path / 'classes.txt')

    return read


def test_names_are_read_in_order(read):
    expected = dict(metainfo=dict(classes=['road', 'traffic light']), ignored_colors=[])
    assert read('\ufeff# comment\nroad\n\ntraffic light  # number 1\n') == expected


@pytest.mark.parametrize('comma', [' ', ', ', '\t'])
def test_colours_are_read(read, comma):
    rows = [('road', 128, 64, 128), ('ignore', 0, 0, 0), ('traffic light', 250, 170, 30)]
    found = read('\n'.join(comma.join(map(str, row)) for row in rows))
    assert found['metainfo']['classes'] == ['road', 'traffic light']
    assert found['metainfo']['palette'] == [[128, 64, 128], [250, 170, 30]]
    assert found['ignored_colors'] == [[0, 0, 0]]


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('road\n', 'must name 2 to 255 different classes, but names 1'),
        ('\n'.join(f'class {i}x' for i in range(256)), 'but names 256'),
        ('road\nsky\nroad\n', 'names 3, 2 of them different'),
        ('road 1 2 3\nsky\n', 'a colour of its own.*look at sky'),
        ('road 1 2 3\nsky 1 2 300\n', 'look at sky'),
        ('road 1 2 3\nsky 1 2 3\n', 'look at road, sky'),
    ],
)
def test_wrong_classes_are_refused(read, text, says):
    with pytest.raises(ConfigError, match=says):
        read(text)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match='no.txt does not exist'):
        read_classes(tmp_path / 'no.txt')
