"""Checks of a folder before a training."""

import re

import cv2
import numpy as np
import pytest

from mmseg_repvgg.datasets.folder_checks import check_folders
from mmseg_repvgg.errors import DataError

METAINFO = dict(classes=('road', 'grass', 'sky'))


@pytest.fixture
def folder(tmp_path):
    """Write 3 images for training and 2 for validation, without a sky."""
    for split, count in (('train', 3), ('val', 2)):
        for kind in ('images', 'masks'):
            (tmp_path / kind / split).mkdir(parents=True)
        for index in range(count):
            labels = np.zeros((16, 20), np.uint8)
            labels[:4] = index > 0
            labels[15] = 255
            picture = np.full((16, 20, 3), 40 * index, np.uint8)
            cv2.imwrite(str(tmp_path / f'images/{split}/{index}.png'), picture)
            cv2.imwrite(str(tmp_path / f'masks/{split}/{index}.png'), labels)
    return tmp_path


def dataset(folder, split, **options):
    prefix = dict(img_path=f'images/{split}', seg_map_path=f'masks/{split}')
    return dict(
        type='FolderDataset',
        data_root=str(folder),
        data_prefix=prefix,
        metainfo=METAINFO,
        **options,
    )


def check(folder, *splits):
    """Check splits; return what is shown and the error, if any."""
    shown = []
    try:
        check_folders([(split, dataset(folder, split)) for split in splits], shown.append)
    except DataError as error:
        return shown[0], str(error)
    return shown[0], None


def test_classes_are_counted(folder):
    shown, error = check(folder, 'train', 'val')
    rows = [line.split('|')[1:-1] for line in shown.splitlines() if '%' in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        # 15 rows of pixels count; 4 of them are grass in all images but the first.
        ['road', '82.22%', '3 of 3', '86.67%', '2 of 2'],
        ['grass', '17.78%', '2 of 3', '13.33%', '1 of 2'],
        ['sky', '0.00%', '0 of 3', '0.00%', '0 of 2'],
    ]
    warnings = ['warning: never in train: sky', 'warning: never in val: sky']
    assert shown.splitlines()[-2:] == warnings
    assert error is None


def test_more_than_256_classes_are_counted(folder):
    (path,) = folder.glob('masks/train/1.png')
    cv2.imwrite(str(path), np.full((16, 20), 299, np.uint16))
    cfg = dataset(folder, 'train')
    classes = [f'class {index}' for index in range(300)]
    cfg.update(metainfo=dict(classes=classes), ignore_index=65535)
    shown = []
    check_folders([('train', cfg)], shown.append)
    (row,) = (line for line in shown[0].splitlines() if 'class 299 ' in line)
    assert '1 of 3' in row


def test_images_are_read_as_the_pipeline_reads_them(folder):
    tifffile = pytest.importorskip('tifffile')
    for path in list(folder.glob('images/*/*.png')):
        path.unlink()
        bands = np.full((16, 20, 5), 3000, np.uint16)
        tifffile.imwrite(path.with_suffix('.tif'), bands, planarconfig='contig')
    shown = []
    cfg = dataset(folder, 'train', pipeline=[dict(type='LoadBands', bands=5)])
    check_folders([('train', cfg)], shown.append)
    assert '3 of 3' in shown[0]
    assert check(folder, 'train')[1].startswith('3 images or masks cannot be used')


def test_masks_of_one_class_are_refused(folder):
    for path in folder.glob('masks/train/*.png'):
        cv2.imwrite(str(path), np.repeat(np.uint8([[0, 255]]), 16, 0).repeat(10, 1))
    shown, error = check(folder, 'train')
    assert 'never in train: grass, sky' in shown
    assert 'the masks of train hold one class, road. For masks of black' in error


def test_masks_of_ignored_pixels_only_are_refused(folder):
    for path in folder.glob('masks/train/*.png'):
        cv2.imwrite(str(path), np.full((16, 20), 255, np.uint8))
    _, error = check(folder, 'train')
    assert 'the masks of train hold ignored pixels only' in error


def test_wrong_files_are_named(folder):
    masks = folder / 'masks' / 'train'
    cv2.imwrite(str(masks / '0.png'), np.full((16, 20), 7, np.uint8))
    cv2.imwrite(str(masks / '1.png'), np.zeros((16, 21), np.uint8))
    cv2.imwrite(str(masks / 'lonely.png'), np.zeros((16, 20), np.uint8))
    image = folder / 'images' / 'train' / '2.png'
    image.write_bytes(image.read_bytes()[:60])
    shown, error = check(folder, 'train')
    for says in (
        r'masks/train/0\.png holds \[7\], but the data set has 3 classes',
        r'masks/train/1\.png is of shape \(16, 21\) but its image',
        r'images/train/2\.png is truncated',
        r'masks/train/lonely\.png has no image',
    ):
        assert re.search(says, shown), says
    assert re.search(r'^4 images or masks cannot be used; the first: .*0\.png', error)
    assert 'never in train' not in shown


def test_long_lists_are_cut(folder):
    for index in range(30):
        cv2.imwrite(str(folder / f'masks/val/x{index}.png'), np.zeros((1, 1), np.uint8))
    shown, error = check(folder, 'val')
    assert error.startswith('30 images or masks')
    assert shown.count('has no image') == 10
    assert 'and 20 more' in shown


def test_list_may_leave_images_out(folder):
    (folder / 'val.txt').write_text('1\n')
    shown = []
    check_folders([('val', dataset(folder, 'val', ann_file='val.txt'))], shown.append)
    assert '1 of 1' in shown[0]
