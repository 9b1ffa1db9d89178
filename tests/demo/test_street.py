"""Drawn street scenes: what is on the disk is consistent, official and whole."""

import json
import os
import subprocess
import sys
import zlib
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
from mmseg_repvgg.datasets.cityscapes_labels import IGNORE_INDEX, LABELS, train_id_table

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


def stems(root):
    files = sorted(root.glob('gtFine/*/*/*_gtFine_polygons.json'))
    return [str(file).removesuffix('_gtFine_polygons.json') for file in files]


def test_every_annotation_is_what_its_polygons_say(root):
    ids = {label.name: label.id for label in LABELS}
    assert len(stems(root)) == 8
    for stem in stems(root):
        annotation = json.loads(Path(f'{stem}_gtFine_polygons.json').read_text())
        assert (annotation['imgHeight'], annotation['imgWidth']) == SIZE
        labels = np.full(SIZE, 255, np.uint8)  # 255 is no id: would betray a hole
        instances = np.zeros(SIZE, np.int32)
        seen: dict[str, int] = {}
        for item in annotation['objects']:
            name, points = item['label'], np.array(item['polygon'], np.int32)
            assert points.min() >= 0
            assert (points < (SIZE[1], SIZE[0])).all()
            cv2.fillPoly(labels, [points], ids[name])
            value = ids[name]
            if LABELS[ids[name]].has_instances:
                value = 1000 * value + seen.get(name, 0)
                seen[name] = seen.get(name, 0) + 1
            cv2.fillPoly(instances, [points], value)
        assert np.array_equal(read(stem, 'labelIds'), labels)
        assert np.array_equal(read(stem, 'instanceIds'), instances)
        assert read(stem, 'instanceIds').dtype == np.uint16
        color = read(stem, 'color')
        assert color.shape == (*SIZE, 4)
        for label in np.unique(labels):
            rgba = color[labels == label][:, [2, 1, 0, 3]]
            assert (rgba == (*LABELS[label].color, 255)).all()


def test_training_ids_are_those_of_mmseg(root):
    dataset = CityscapesDataset(
        data_root=str(root),
        data_prefix={'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'},
        pipeline=[{'type': LoadImageFromFile}, {'type': LoadAnnotations}],
    )
    assert len(dataset) == 5
    by_train_id = {label.train_id: label for label in LABELS if label.train_id != 255}
    assert [by_train_id[i].name for i in range(19)] == list(dataset.metainfo['classes'])
    palette = [list(by_train_id[i].color) for i in range(19)]
    assert palette == dataset.metainfo['palette']
    for sample in dataset:
        assert sample['img'].shape == (*SIZE, 3)
        ids = read(
            sample['seg_map_path'].removesuffix('_gtFine_labelTrainIds.png'), 'labelIds'
        )
        assert np.array_equal(sample['gt_seg_map'], train_id_table()[ids])
        image, truth = Path(sample['img_path']), Path(sample['seg_map_path'])
        assert image.parent.name == truth.parent.name
        assert image.name.split('_leftImg8bit')[0] == truth.name.split('_gtFine')[0]


def test_cities_are_of_one_split_only():
    cities = [city for split in street.CITIES.values() for city in split]
    assert len(cities) == len(set(cities))


def test_label_table_is_the_official_one():
    assert [label.id for label in LABELS] == list(range(34))
    # A checksum of the table in cityscapesscripts 2.3.0 without its license plate.
    facts = repr([tuple(label) for label in LABELS]).encode()
    assert zlib.crc32(facts) == 177157431


def test_same_seed_same_bytes_whatever_the_other_splits(root, tmp_path):
    write_street_scenes(tmp_path / 'again', {'train': 5, 'val': 3}, SIZE, seed=3)
    assert contents(tmp_path / 'again') == contents(root)
    write_street_scenes(
        tmp_path / 'more', {'test': 1, 'val': 1, 'train': 6}, SIZE, seed=3
    )
    more = contents(tmp_path / 'more')
    pictures = [v for k, v in more.items() if k.endswith('leftImg8bit.png')]
    assert len(set(pictures)) == 8  # across the splits, too
    train = {k: v for k, v in contents(root).items() if '/train/' in k}
    assert len(train) == 5 * 6
    assert train.items() <= more.items()
    write_street_scenes(tmp_path / 'other', {'train': 5}, SIZE, seed=4)
    other = contents(tmp_path / 'other')
    images = [k for k in train if k.endswith('leftImg8bit.png')]
    assert len({train[k] for k in images} | {other[k] for k in images}) == 10


def test_every_drawn_class_has_its_share_of_the_pixels():
    counts = np.zeros(256)
    for seed in range(40):
        ids = draw_scene(np.random.default_rng(seed), (128, 256)).label_ids
        counts += np.bincount(train_id_table()[ids].ravel(), minlength=256)
    share = counts / counts.sum()
    names = {label.train_id: label.name for label in LABELS}
    drawn = {names[i].replace(' ', '_') for i in np.flatnonzero(counts[:19])}
    assert drawn == set(DRAWN.split())
    assert share[:19][counts[:19] > 0].min() > 0.005
    assert 0.005 < share[IGNORE_INDEX] < 0.15


def test_no_class_is_a_constant_colour():
    scenes = [draw_scene(np.random.default_rng(seed), SIZE) for seed in range(6)]
    for label in np.unique([scene.label_ids for scene in scenes]):
        pixels = np.vstack([scene.image[scene.label_ids == label] for scene in scenes])
        if LABELS[label].train_id != IGNORE_INDEX:
            assert pixels.std(0).min() > 8, LABELS[label].name


@pytest.mark.parametrize('size', [(64, 64), (64, 400), (200, 70), (256, 512)])
def test_every_size_is_covered(size):
    scene = draw_scene(np.random.default_rng(1), size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == scene.label_ids.dtype == np.uint8
    assert scene.label_ids.shape == scene.instance_ids.shape == size
    assert scene.label_ids.min() > 0  # 'unlabeled' is never drawn
    instances = scene.instance_ids.astype(int)
    ids = np.where(instances < 1000, instances, instances // 1000)
    assert np.array_equal(ids, scene.label_ids)


def test_a_complete_set_is_kept(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert not write_street_scenes(root, {'val': 3, 'train': 5, 'test': 0}, SIZE, 3)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


@pytest.mark.parametrize(
    'change',
    [{'seed': 4}, {'size': (96, 161)}, {'counts': {'train': 5}}, {'version': 0}],
)
def test_other_parameters_are_refused(root, monkeypatch, change):
    before = contents(root)
    if 'version' in change:
        monkeypatch.setattr(street, 'GENERATOR_VERSION', change['version'])
        change = {}
    wanted = {'counts': {'train': 5, 'val': 3}, 'size': SIZE, 'seed': 3, **change}
    with pytest.raises(FileExistsError, match='other street scenes.*another folder'):
        write_street_scenes(root, **wanted)
    assert contents(root) == before


def test_a_real_data_set_is_never_touched(tmp_path):
    image = tmp_path / 'cityscapes/leftImg8bit/train/aachen/aachen_0_0_leftImg8bit.png'
    image.parent.mkdir(parents=True)
    image.write_bytes(b'real')
    with pytest.raises(FileExistsError, match='cityscapes.*another folder, or delete'):
        write_street_scenes(tmp_path / 'cityscapes', {'train': 1}, SIZE)
    with pytest.raises(FileExistsError, match='was not made by this generator'):
        write_street_scenes(image, {'train': 1}, SIZE)
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [image]
    assert image.read_bytes() == b'real'


def test_a_damaged_set_is_named(tmp_path):
    write_street_scenes(tmp_path, {'val': 1}, SIZE)  # an empty folder is fine
    lost = next(tmp_path.rglob('*_gtFine_labelTrainIds.png'))
    lost.unlink()
    with pytest.raises(FileExistsError, match=f'lacks its .*{lost.name}'):
        write_street_scenes(tmp_path, {'val': 1}, SIZE)


@pytest.mark.parametrize('failure', [OSError(28, 'No space left'), KeyboardInterrupt()])
def test_nothing_is_left_of_an_interrupted_write(tmp_path, monkeypatch, failure):
    encode, calls = cv2.imencode, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 8:  # within the second scene
            assert list(tmp_path.iterdir())
            raise failure
        return encode(*args)

    monkeypatch.setattr(cv2, 'imencode', failing)
    with pytest.raises(type(failure)) as caught:
        write_street_scenes(tmp_path / 'drawn', {'train': 3}, SIZE)
    assert len(calls) == 8
    assert not list(tmp_path.iterdir())
    if isinstance(failure, OSError):
        assert caught.value.errno == 28
        assert f'{tmp_path / "drawn"}: No space left' in str(caught.value)


def test_two_writers_at_once_make_one_set(tmp_path, monkeypatch):
    mkdir, nested = Path.mkdir, []

    def racing(self, *args, **kwargs):
        if not nested:  # the other process starts and ends while this one works
            nested.append(True)
            assert write_street_scenes(tmp_path / 'drawn', {'val': 1}, SIZE)
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, 'mkdir', racing)
    assert not write_street_scenes(tmp_path / 'drawn', {'val': 1}, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ['drawn']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'size': (63, 128)}, r'size .*at least 64, got \(63, 128\)'),
        ({'size': (128.0, 256)}, 'size must be'),
        ({'size': 128}, 'size must be .*got 128'),
        ({'counts': {'train': -1}}, "counts .*at least 0, got -1 for 'train'"),
        ({'counts': {'train': True}}, 'counts .*got True'),
        ({'counts': {'training': 1}}, "counts .*'train'.*got 'training'"),
        ({'counts': {'train': 0}}, 'at least one image'),
        ({'seed': -1}, 'seed .*got -1'),
        ({'seed': 0.5}, 'seed .*got 0.5'),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
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


def test_tool_writes_and_says_so(tmp_path):
    drawn, expected = tmp_path / 'drawn', tmp_path / 'expected'
    sizes = ('--train', 2, '--val', 1, '--test', 0, '--size', *SIZE, '--seed', 7)
    result = run_tool(drawn, *sizes)
    assert result.returncode == 0, result.stderr
    summary = f'wrote 2 train + 1 val + 0 test scenes of 96x160 in {drawn}'
    assert result.stdout.splitlines()[-1] == summary
    write_street_scenes(expected, {'train': 2, 'val': 1}, SIZE, 7)
    assert contents(drawn) == contents(expected)


def test_tool_refuses_in_one_line(tmp_path):
    result = run_tool(tmp_path / 'drawn', '--size', 32, 64)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: size must be')
    assert 'Traceback' not in result.stderr


def test_clipping_keeps_what_is_inside_and_cuts_the_rest():
    inside = np.array([(2.0, 3.0), (40.0, 5.0), (20.0, 30.0)])
    assert np.array_equal(street._clip(inside, 50, 60), inside)
    assert len(street._clip(inside + 100, 50, 60)) == 0
    around = street_parts._box(-100, -100, 500, 500)
    corners = {tuple(point) for point in street._clip(around, 50, 60)}
    assert corners == {(0, 0), (0, 49), (59, 0), (59, 49)}
