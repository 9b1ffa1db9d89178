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
    return check_folders([(split, dataset(folder, split)) for split in splits])


def test_classes_are_counted(folder):
    report = check(folder, 'train', 'val')
    rows = [line.split('|')[1:-1] for line in report.table.splitlines() if '%' in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        # 15 rows of pixels count; 4 of them are grass in all images but the first.
        ['road', '82.22%', '3 of 3', '86.67%', '2 of 2'],
        ['grass', '17.78%', '2 of 3', '13.33%', '1 of 2'],
        ['sky', '0.00%', '0 of 3', '0.00%', '0 of 2'],
    ]
    assert report.problems == []
    assert report.warnings == ['never in train: sky', 'never in val: sky']
    assert 'warning: never in val: sky' in str(report)
    report.require_sound()


def test_wrong_files_are_named(folder):
    masks = folder / 'masks' / 'train'
    cv2.imwrite(str(masks / '0.png'), np.full((16, 20), 7, np.uint8))
    cv2.imwrite(str(masks / '1.png'), np.zeros((16, 21), np.uint8))
    cv2.imwrite(str(masks / 'lonely.png'), np.zeros((16, 20), np.uint8))
    image = folder / 'images' / 'train' / '2.png'
    image.write_bytes(image.read_bytes()[:60])
    report = check(folder, 'train')
    expected = [
        r'masks/train/0\.png holds \[7\], but the data set has 3 classes',
        r'masks/train/1\.png is of shape \(16, 21\) but its image',
        r'images/train/2\.png is truncated',
        r'masks/train/lonely\.png has no image',
    ]
    assert len(report.problems) == len(expected)
    for problem, says in zip(report.problems, expected):
        assert re.search(says, problem), problem
    with pytest.raises(DataError, match=r'4 images or masks cannot be used.*0\.png'):
        report.require_sound()


def test_long_lists_are_cut(folder):
    for index in range(30):
        cv2.imwrite(str(folder / f'masks/val/x{index}.png'), np.zeros((1, 1), np.uint8))
    report = check(folder, 'val')
    assert len(report.problems) == 30
    assert str(report).count('has no image') == 10
    assert 'and 20 more' in str(report)


def test_image_of_two_splits_is_a_warning(folder):
    prefix = dict(data_prefix=dict(img_path='images', seg_map_path='masks'))
    (folder / 'train.txt').write_text('train/0\ntrain/1\n')
    (folder / 'val.txt').write_text('train/1\nval/1\n')
    cfgs = [
        (split, {**dataset(folder, split, ann_file=f'{split}.txt'), **prefix})
        for split in ('train', 'val')
    ]
    report = check_folders(cfgs)
    assert report.problems == []
    assert any('1 images are in two splits' in each for each in report.warnings)
