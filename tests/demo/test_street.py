"""Drawn street scenes are consistent, in the official layout, and written whole."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets import CityscapesDataset
from mmseg.datasets.transforms import LoadAnnotations

from demo import parts as street_parts
from demo import street
from demo.street import draw_scene, write_street_scenes
from mmseg_repvgg.datasets.prepare_cityscapes import TRAIN_IDS
from mmseg_repvgg.errors import WriteError

IDS_TO_TRAIN_IDS = np.array(TRAIN_IDS, np.uint8)
REPO = Path(__file__).parents[2]
SIZE = (96, 160)
DRAWN = (
    'road sidewalk building fence pole traffic_light traffic_sign vegetation terrain '
    'sky person rider car bus bicycle'
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'drawn'
    assert write_street_scenes(folder, {'train': 5, 'val': 3}, SIZE, seed=3)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def read(stem, kind):
    pixels = cv2.imread(f'{stem}_gtFine_{kind}.png', cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def test_data_set_is_read_by_mmseg(root):
    dataset = CityscapesDataset(
        data_root=str(root),
        data_prefix={'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'},
        pipeline=[{'type': LoadImageFromFile}, {'type': LoadAnnotations}],
    )
    assert len(dataset) == 5
    classes = dataset.metainfo['classes']
    for name, label_id in street.LABEL_IDS.items():
        train_id = TRAIN_IDS[label_id]
        assert train_id == (classes.index(name) if name in classes else 255)
    for sample in dataset:
        assert sample['img'].shape == (*SIZE, 3)
        ids = read(
            sample['seg_map_path'].removesuffix('_gtFine_labelTrainIds.png'), 'labelIds'
        )
        assert np.array_equal(sample['gt_seg_map'], IDS_TO_TRAIN_IDS[ids])
        image, truth = Path(sample['img_path']), Path(sample['seg_map_path'])
        assert image.parent.name == truth.parent.name
        assert image.name.split('_leftImg8bit')[0] == truth.name.split('_gtFine')[0]


def test_cities_are_of_one_split_only():
    cities = [city for split in street.CITIES.values() for city in split]
    assert len(cities) == len(set(cities))


def test_scene_depends_on_seed_split_and_index_only(root, tmp_path):
    write_street_scenes(tmp_path / 'again', {'train': 5, 'val': 3}, SIZE, seed=3)
    assert contents(tmp_path / 'again') == contents(root)
    write_street_scenes(
        tmp_path / 'more', {'test': 1, 'val': 1, 'train': 6}, SIZE, seed=3
    )
    more = contents(tmp_path / 'more')
    pictures = [v for k, v in more.items() if k.endswith('leftImg8bit.png')]
    assert len(set(pictures)) == 8  # across the splits, too
    train = {k: v for k, v in contents(root).items() if '/train/' in k}
    assert len(train) == 5 * 3
    assert train.items() <= more.items()
    write_street_scenes(tmp_path / 'other', {'train': 5}, SIZE, seed=4)
    other = contents(tmp_path / 'other')
    images = [k for k in train if k.endswith('leftImg8bit.png')]
    assert len({train[k] for k in images} | {other[k] for k in images}) == 10


def test_every_drawn_class_is_frequent():
    counts = np.zeros(256)
    for seed in range(40):
        ids = draw_scene(np.random.default_rng(seed), (128, 256)).label_ids
        counts += np.bincount(IDS_TO_TRAIN_IDS[ids].ravel(), minlength=256)
    share = counts / counts.sum()
    names = CityscapesDataset.METAINFO['classes']
    drawn = {names[i].replace(' ', '_') for i in np.flatnonzero(counts[:19])}
    assert drawn == set(DRAWN.split())
    assert share[:19][counts[:19] > 0].min() > 0.005
    assert 0.005 < share[255] < 0.15


def test_no_class_is_a_constant_colour():
    scenes = [draw_scene(np.random.default_rng(seed), SIZE) for seed in range(6)]
    for label in np.unique([scene.label_ids for scene in scenes]):
        pixels = np.vstack([scene.image[scene.label_ids == label] for scene in scenes])
        if TRAIN_IDS[label] != 255:
            assert pixels.std(0).min() > 8, label


@pytest.mark.parametrize('size', [(64, 64), (64, 400), (200, 70), (256, 512)])
def test_every_pixel_is_labelled(size):
    scene = draw_scene(np.random.default_rng(1), size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == scene.label_ids.dtype == np.uint8
    assert scene.label_ids.shape == size
    assert scene.label_ids.min() > 0  # 'unlabeled' is never drawn


def test_complete_set_is_kept(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert not write_street_scenes(root, {'val': 3, 'train': 5, 'test': 0}, SIZE, 3)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


@pytest.mark.parametrize(
    'change',
    [{'seed': 4}, {'size': (96, 161)}, {'counts': {'train': 5}}, {'version': 0}],
)
def test_set_with_other_parameters_is_refused(root, monkeypatch, change):
    before = contents(root)
    if 'version' in change:
        monkeypatch.setattr(street, 'GENERATOR_VERSION', change['version'])
        change = {}
    wanted = {'counts': {'train': 5, 'val': 3}, 'size': SIZE, 'seed': 3, **change}
    with pytest.raises(WriteError, match='other street scenes.*another folder'):
        write_street_scenes(root, **wanted)
    assert contents(root) == before


def test_other_data_sets_are_not_touched(tmp_path):
    image = tmp_path / 'cityscapes/leftImg8bit/train/aachen/aachen_0_0_leftImg8bit.png'
    image.parent.mkdir(parents=True)
    image.write_bytes(b'real')
    with pytest.raises(WriteError, match='cityscapes.*another folder, or delete'):
        write_street_scenes(tmp_path / 'cityscapes', {'train': 1}, SIZE)
    with pytest.raises(WriteError, match='was not made by this generator'):
        write_street_scenes(image, {'train': 1}, SIZE)
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [image]
    assert image.read_bytes() == b'real'


def test_missing_file_is_named(tmp_path):
    write_street_scenes(tmp_path, {'val': 1}, SIZE)  # an empty folder is fine
    lost = next(tmp_path.rglob('*_gtFine_labelTrainIds.png'))
    lost.unlink()
    with pytest.raises(WriteError, match=f'lacks its .*{lost.name}'):
        write_street_scenes(tmp_path, {'val': 1}, SIZE)


@pytest.mark.parametrize('failure', [OSError(28, 'No space left'), KeyboardInterrupt()])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, failure):
    encode, calls = cv2.imencode, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 5:  # within the second scene
            assert list(tmp_path.iterdir())
            raise failure
        return encode(*args)

    monkeypatch.setattr(cv2, 'imencode', failing)
    expected = WriteError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match='drawn cannot be written: No space|^$'):
        write_street_scenes(tmp_path / 'drawn', {'train': 3}, SIZE)
    assert len(calls) == 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'size': (63, 128)}, r'size .*at least 64x64, got \(63, 128\)'),
        ({'counts': {'train': -1}}, 'counts must be positive .*got .*-1'),
        ({'counts': {'training': 1}}, "counts must be .*'train'"),
        ({'counts': {'train': 0}}, 'counts must be positive'),
        ({'seed': -1}, 'seed .*got -1'),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_street_scenes(tmp_path / 'drawn', **arguments)
    assert not list(tmp_path.iterdir())


def run_tool(*args):
    return subprocess.run(
        [sys.executable, str(REPO / 'tools/make_street_scenes.py'), *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
        check=False,
    )


def test_tool_writes_the_set(tmp_path):
    drawn, expected = tmp_path / 'drawn', tmp_path / 'expected'
    sizes = ('--train', 2, '--val', 1, '--test', 0, '--size', *SIZE, '--seed', 7)
    result = run_tool(drawn, *sizes)
    assert result.returncode == 0, result.stderr
    summary = f'wrote 2 train + 1 val + 0 test scenes of 96x160 in {drawn}'
    assert result.stdout.splitlines()[-1] == summary
    write_street_scenes(expected, {'train': 2, 'val': 1}, SIZE, 7)
    assert contents(drawn) == contents(expected)


def test_error_of_the_tool_is_one_line(tmp_path):
    result = run_tool(tmp_path / 'drawn', '--size', 32, 64)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: size must be')
    assert 'Traceback' not in result.stderr


def test_outlines_are_clipped_to_the_frame():
    inside = np.array([(2.0, 3.0), (40.0, 5.0), (20.0, 30.0)])
    assert np.array_equal(street._clip(inside, 50, 60), inside)
    assert len(street._clip(inside + 100, 50, 60)) == 0
    around = street_parts._box(-100, -100, 500, 500)
    corners = {tuple(point) for point in street._clip(around, 50, 60)}
    assert corners == {(0, 0), (0, 49), (59, 0), (59, 49)}
