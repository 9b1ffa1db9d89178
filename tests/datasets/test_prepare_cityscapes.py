"""Cityscapes is unpacked, checked, repaired and given its training ids."""

import fcntl
import json
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.street import write_street_scenes
from mmseg_repvgg.datasets.checks import check_dataset
from mmseg_repvgg.datasets.cityscapes_labels import train_id_table
from mmseg_repvgg.datasets.prepare_cityscapes import ARCHIVES, prepare_cityscapes
from mmseg_repvgg.errors import ConfigError, DataError, ExtraError, WriteError

pytest.importorskip('cityscapesscripts')

TOOL = Path(__file__).parents[2] / 'tools' / 'prepare_cityscapes.py'
COUNTS = {'train': 4, 'val': 2, 'test': 1}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A drawn set with everything: what has to come out."""
    root = tmp_path_factory.mktemp('made') / 'cityscapes'
    write_street_scenes(root, COUNTS, size=(64, 128), seed=3)
    return root


@pytest.fixture
def root(made, tmp_path):
    """It as it is downloaded: without the training ids."""
    copy = tmp_path / 'cityscapes'
    shutil.copytree(made, copy)
    (copy / 'street_scenes.json').unlink()
    for path in train_ids(copy):
        path.unlink()
    return copy


@pytest.fixture
def zipped(root):
    """It as it is downloaded, still packed, among files that belong elsewhere."""
    for folder, name in ARCHIVES.items():
        with zipfile.ZipFile(root / name, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr('README', 'of the official zip files')
            archive.writestr(f'{folder}/train/../../../outside.png', b'out')
            archive.writestr('/outside.png', b'out')
            archive.writestr(f'{folder}/train/city/._mac_leftImg8bit.png', b'mac')
            for path in sorted((root / folder).rglob('*')):
                archive.write(path, path.relative_to(root))
        shutil.rmtree(root / folder)
    return root


def train_ids(root):
    return sorted(root.glob('gtFine/*/*/*_labelTrainIds.png'))


def first(root, ending, split='train'):
    return min(root.glob(f'*/{split}/*/*{ending}'))


def pixels(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def tree(root):
    """Every file with its content and time, hidden ones too."""
    return {
        path.relative_to(root): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob('*')
        if path.is_file()
    }


def assert_as_made(root, made):
    assert len(train_ids(made)) == sum(COUNTS.values())
    for path in train_ids(made):
        np.testing.assert_array_equal(pixels(root / path.relative_to(made)), pixels(path))
    assert not list(root.rglob('.*')), 'a temporary file was left behind'


def row(report, split):
    line = next(line for line in str(report).splitlines() if line.startswith(split))
    return ' '.join(line.split()[1:])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    """One bit in the middle, where an image has its pixels."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b'')


DAMAGES = {'truncated': truncate, 'flipped': flip, 'empty': empty}


@pytest.fixture(params=DAMAGES)
def damage(request):
    return DAMAGES[request.param]


def test_training_ids_are_made_and_then_kept(root, made):
    report = prepare_cityscapes(root)
    assert report.ready
    assert_as_made(root, made)
    before = tree(root)
    again = prepare_cityscapes(root)
    assert tree(root) == before
    assert again.ready
    assert row(again, 'train') == '4 of 2975 4 of 2975 4 0 0'
    for split in ('train', 'val'):
        prefix = dict(img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}')
        check_dataset(
            dict(type='CityscapesDataset', data_root=str(root), data_prefix=prefix)
        )


def test_a_subset_is_ready_with_a_warning(root):
    shutil.rmtree(root / 'leftImg8bit' / 'test')
    shutil.rmtree(root / 'gtFine' / 'test')
    report = prepare_cityscapes(root)
    assert report.ready
    assert 'warning: a subset' in str(report)
    assert 'train 4 of 2975, val 2 of 500, test 0 of 1525' in str(report)


def test_zip_files_are_unpacked(zipped, made):
    report = prepare_cityscapes(zipped)
    assert report.ready
    assert_as_made(zipped, made)
    for path in made.glob('leftImg8bit/*/*/*'):
        assert (zipped / path.relative_to(made)).read_bytes() == path.read_bytes()
    names = {path.name for path in zipped.parent.rglob('*')} | set(os.listdir('/'))
    assert not names & {'README', 'outside.png', '._mac_leftImg8bit.png'}
    before = tree(zipped)
    assert prepare_cityscapes(zipped).ready
    assert tree(zipped) == before


def test_torn_files_are_repaired_from_the_zip_file(zipped, made, damage):
    prepare_cityscapes(zipped)
    for ending in ('_leftImg8bit.png', '_labelIds.png', '_polygons.json'):
        damage(first(zipped, ending))
    first(zipped, '_labelIds.png', 'val').unlink()
    assert 'gtFine_trainvaltest.zip: 3 of' in str(prepare_cityscapes(zipped, check=True))
    assert prepare_cityscapes(zipped).ready
    assert_as_made(zipped, made)
    assert all(
        (zipped / path.relative_to(made)).read_bytes() == path.read_bytes()
        for path in made.glob('*/*/*/*')
        if path not in train_ids(made)
    )


def test_torn_training_ids_are_made_again(root, made, damage):
    prepare_cityscapes(root)
    torn, good = train_ids(root)[:2]
    before = good.stat().st_mtime_ns
    damage(torn)
    assert not prepare_cityscapes(root, check=True).ready
    assert prepare_cityscapes(root).ready
    assert_as_made(root, made)
    assert good.stat().st_mtime_ns == before


@pytest.mark.parametrize('wrong', ['size', 'values', 'channels'])
def test_wrong_training_ids_are_made_again(root, made, wrong):
    prepare_cityscapes(root)
    path, ids = train_ids(root)[0], pixels(first(root, '_labelIds.png'))
    contents = {'size': ids[:32], 'values': ids, 'channels': cv2.merge([ids] * 3)}
    cv2.imwrite(str(path), contents[wrong])
    assert prepare_cityscapes(root).ready
    assert_as_made(root, made)


def test_broken_sources_are_named_and_the_others_are_done(root, made, damage):
    broken = [
        first(root, '_leftImg8bit.png'),
        first(root, '_labelIds.png', 'val'),
    ]
    if damage is flip:
        broken.pop(0)  # of an image only the start and the end are read
    for path in broken:
        damage(path)
    report = prepare_cityscapes(root)
    assert not report.ready
    for path in broken:
        assert f'\n{path} is ' in str(report)
    assert 'https://www.cityscapes-dataset.com' in str(report)
    assert len(train_ids(root)) == sum(COUNTS.values()) - 1


def test_labels_that_are_none_of_cityscapes_are_named(root):
    unknown, other_size, colored = sorted(root.glob('gtFine/*/*/*_labelIds.png'))[:3]
    ids = pixels(unknown)
    cv2.imwrite(str(unknown), np.where(ids == 7, 40, ids).astype(np.uint8))
    cv2.imwrite(str(other_size), ids[:, :100])
    cv2.imwrite(str(colored), cv2.merge([ids] * 3))
    text = str(prepare_cityscapes(root))
    assert f'{unknown} is no label map of this data set: it holds [40]' in text
    assert f'{other_size} is of (64, 100) (height, width), but its image' in text
    assert f'{colored} is no label map: it has to be of one channel' in text
    assert len(train_ids(root)) == sum(COUNTS.values()) - 3


def test_polygons_alone_do(root):
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    for path in root.rglob('*_labelIds.png'):
        path.unlink()
    grouped = first(root, '_polygons.json')
    data = json.loads(grouped.read_text())
    square = [[5, 5], [50, 5], [50, 50], [5, 50]]
    data['objects'] += [
        {'label': 'cargroup', 'polygon': square},
        {'label': 'license plate', 'polygon': square},
        {'label': 'nonsense', 'polygon': square, 'deleted': 1},
    ]
    grouped.write_text(json.dumps(data))
    assert prepare_cityscapes(root).ready
    assert len(train_ids(root)) == sum(COUNTS.values())
    for path in train_ids(root):
        polygons = path.with_name(path.name.replace('labelTrainIds.png', 'polygons.json'))
        annotation = Annotation()
        annotation.fromJsonFile(str(polygons))
        ids = np.array(createLabelImage(annotation, 'ids'))
        np.testing.assert_array_equal(pixels(path), train_id_table()[ids])
    assert pixels(first(root, '_labelTrainIds.png'))[20, 20] == 13


@pytest.mark.parametrize(
    'content',
    [
        '{"imgHeight": 64, "imgWidth": 128, "objects": [{"label": "r',
        '[]',
        '{"imgHeight": 64, "imgWidth": 128, "objects": [{"label": "x", "polygon": []}]}',
        '{"imgHeight": 64, "imgWidth": 128, "objects": [{"label": "x"}]}',
        pytest.param('[' * 100_000, id='too deep'),
        '{"imgHeight": 64, "imgWidth": 128, "objects": [{"label": "road", "polygon": '
        f'[[1{"0" * 400}, 0], [0, 9], [9, 9]]}}]}}',
    ],
)
def test_broken_polygons_are_named(root, content, capfd):
    first(root, '_labelIds.png').unlink()
    polygons = first(root, '_polygons.json')
    polygons.write_text(content)
    report = prepare_cityscapes(root)
    assert f'{polygons} is no sound file of polygons' in str(report)
    assert len(train_ids(root)) == sum(COUNTS.values()) - 1
    assert 'USAGE' not in capfd.readouterr().out


@pytest.mark.parametrize('make', [os.mkfifo, lambda path: path.symlink_to('gone')])
def test_sources_that_are_no_files_are_named(root, make):
    broken = [first(root, '_leftImg8bit.png'), first(root, '_labelIds.png', 'val')]
    first(root, '_labelIds.png', 'test').unlink()
    broken.append(first(root, '_polygons.json', 'test'))
    for path in broken:
        path.unlink()
        make(path)
    report = prepare_cityscapes(root)
    assert not report.ready
    for path in broken:
        assert f'\n{path} ' in str(report)
    assert len(train_ids(root)) == sum(COUNTS.values()) - 2


def test_polygons_that_would_fill_the_memory_are_named(root):
    first(root, '_labelIds.png').unlink()
    polygons = first(root, '_polygons.json')
    polygons.write_text('{"imgHeight": 99999, "imgWidth": 99999, "objects": []}')
    text = str(prepare_cityscapes(root))
    assert f'{polygons} is no label map: it claims 99999x99999 pixels' in text
    assert len(train_ids(root)) == sum(COUNTS.values()) - 1


@pytest.mark.parametrize('place', ['archive', 'member'])
def test_an_archive_or_a_place_that_is_a_pipe_is_refused(zipped, place):
    if place == 'archive':
        path = zipped / ARCHIVES['gtFine']
        path.unlink()
        os.mkfifo(path)
        assert not prepare_cityscapes(zipped).ready
        return
    with zipfile.ZipFile(zipped / ARCHIVES['gtFine'], 'a') as archive:
        archive.writestr('gtFine/empty', b'')
    (zipped / 'gtFine').mkdir()
    os.mkfifo(zipped / 'gtFine' / 'empty')
    with pytest.raises(WriteError, match='empty cannot be written: .*not a regular file'):
        prepare_cityscapes(zipped)


def test_training_ids_without_their_source_are_kept(root):
    prepare_cityscapes(root)
    for path in [*root.rglob('*_labelIds.png'), *root.rglob('*_polygons.json')]:
        path.unlink()
    before = tree(root)
    assert prepare_cityscapes(root).ready
    assert tree(root) == before
    flip(train_ids(root)[0])
    report = prepare_cityscapes(root)
    assert not report.ready
    assert f'{train_ids(root)[0]} is corrupt' in str(report)


def test_check_writes_nothing(zipped, root):
    before = tree(root)
    packed = prepare_cityscapes(root, check=True)
    assert tree(root) == before
    assert not packed.ready
    assert 'leftImg8bit_trainvaltest.zip: 7 of 7 files are to be unpacked' in str(packed)
    prepare_cityscapes(root)
    train_ids(root)[0].unlink()
    before = tree(root)
    report = prepare_cityscapes(root, check=True)
    assert tree(root) == before
    assert not report.ready
    assert row(report, 'test') == '1 of 1525 1 of 1525 0 1 0'
    prepare_cityscapes(root)
    first(root, '_color.png').unlink()
    report = prepare_cityscapes(root, check=True)
    assert not report.ready
    assert 'gtFine_trainvaltest.zip: 1 of 28 files are to be unpacked' in str(report)


def test_what_is_missing_is_said(root):
    first(root, '_leftImg8bit.png').unlink()
    bare = first(root, '_leftImg8bit.png', 'val')
    for kind in ('labelIds.png', 'polygons.json'):
        first(root, kind, 'val').unlink()
    report = prepare_cityscapes(root)
    assert not report.ready
    assert 'train: 1 labels without images' in str(report)
    assert f'val: 1 images without labels, as {bare}' in str(report)
    assert 'csDownload' in str(report)
    shutil.rmtree(root / 'leftImg8bit' / 'val')
    assert 'val: not one image with its labels' in str(prepare_cityscapes(root))


def test_no_training_needs_labels_of_the_test_split(root):
    shutil.rmtree(root / 'gtFine' / 'test')
    report = prepare_cityscapes(root)
    assert report.ready
    assert 'test: 1 images without labels (no training needs them)' in str(report)


def test_dummy_labels_of_the_test_split_are_told(root):
    assert 'dummies' not in str(prepare_cityscapes(root))
    for path in root.glob('gtFine/test/*/*_labelIds.png'):
        cv2.imwrite(str(path), np.full((64, 128), 3, np.uint8))
    report = prepare_cityscapes(root)
    assert report.ready
    assert 'test: its labels are dummies' in str(report)
    assert (pixels(first(root, '_labelTrainIds.png', 'test')) == 255).all()


def test_cities_may_be_links_and_hidden_files_are_left_alone(root, made, tmp_path):
    city = next((root / 'leftImg8bit' / 'train').iterdir())
    city.rename(tmp_path / 'elsewhere')
    city.symlink_to(tmp_path / 'elsewhere')
    hidden = city / '._x_leftImg8bit.png'
    hidden.write_bytes(b'macOS')
    report = prepare_cityscapes(root)
    assert report.ready
    assert 'without' not in str(report)
    hidden.unlink()
    assert_as_made(root, made)


@pytest.mark.parametrize('content', ['no folder', 'empty folder', 'other files'])
def test_nothing_found(tmp_path, content):
    if content != 'no folder':
        (tmp_path / 'root' / 'leftImg8bit').mkdir(parents=True)
    if content == 'other files':
        (tmp_path / 'root' / 'leftImg8bit' / 'notes.txt').touch()
    with pytest.raises(DataError, match='root holds nothing of Cityscapes.*free reg'):
        prepare_cityscapes(tmp_path / 'root')


def spoil(path):
    """Spoil the largest file of a zip file."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + largest.compress_size // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize('harm', [truncate, spoil, empty])
def test_corrupt_zip_file_is_named(zipped, made, harm):
    harm(zipped / 'gtFine_trainvaltest.zip')
    with pytest.raises(DataError, match='gtFine_trainvaltest.zip cannot be read whole'):
        prepare_cityscapes(zipped)
    for path in zipped.glob('*/*/*/*'):
        assert path.read_bytes() == (made / path.relative_to(zipped)).read_bytes()
    assert not list(zipped.rglob('.*'))


def test_zip_file_of_something_else(zipped):
    shutil.copy(zipped / ARCHIVES['leftImg8bit'], zipped / ARCHIVES['gtFine'])
    with pytest.raises(DataError, match='gtFine_trainvaltest.zip holds no folder gtFine'):
        prepare_cityscapes(zipped)


def test_full_disk_is_foreseen(root):
    path = root / ARCHIVES['leftImg8bit']
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('leftImg8bit/train/city/a_leftImg8bit.png', b'png')
        archive.infolist()[0].file_size = 2**60  # what it says it needs
    before = tree(root)
    with pytest.raises(DataError, match='zip needs 1073741824.00 GiB, but .* has only'):
        prepare_cityscapes(root)
    assert tree(root) == before


def test_unwritable_place_is_an_error(zipped):
    (zipped / 'gtFine').write_text('a file where a folder has to be')
    with pytest.raises(WriteError, match='gtFine.* cannot be written: '):
        prepare_cityscapes(zipped)


def test_missing_package_names_the_extra(root, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cityscapesscripts.helpers.labels', None)
    before = tree(root)
    with pytest.raises(ExtraError, match=r'mmseg_repvgg\[cityscapes\]'):
        prepare_cityscapes(root)
    assert tree(root) == before


def test_a_second_run_is_kept_out(root):
    handle = os.open(root, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(DataError, match='another run is at work'):
            prepare_cityscapes(root)
    finally:
        os.close(handle)
    assert prepare_cityscapes(root).ready


def test_jobs_must_be_positive(root):
    with pytest.raises(ConfigError, match='jobs must be at least 1, but got 0'):
        prepare_cityscapes(root, jobs=0)


def start(root, *options, **kwargs):
    return subprocess.Popen(
        [sys.executable, str(TOOL), str(root), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_full_disk_leaves_nothing_half_written(zipped, made):
    def limit():
        # No file may grow beyond this: writing fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    process = start(zipped, preexec_fn=limit)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert 'cannot be written: File too large' in errors
    assert 'Traceback' not in errors
    for path in zipped.glob('*/*/*/*'):
        assert path.read_bytes() == (made / path.relative_to(zipped)).read_bytes()
    assert not list(zipped.rglob('.*'))


@pytest.mark.slow
def test_killed_and_stopped_it_goes_on_where_it_was(made, tmp_path):
    root, count = tmp_path / 'cityscapes', 120
    ids = cv2.resize(pixels(first(made, '_labelIds.png')), (2048, 1024), interpolation=0)
    data = cv2.imencode('.png', ids)[1].tobytes()
    for index in range(count):
        split = 'train' if index else 'val'
        for kind in (
            'leftImg8bit/{}/city/{}_leftImg8bit',
            'gtFine/{}/city/{}_gtFine_labelIds',
        ):
            path = root / f'{kind.format(split, index)}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    whole = cv2.imencode('.png', train_id_table()[ids])[1].tobytes()
    done = 0
    for number, status in (
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
    ):
        process = start(root, '--jobs', '2')
        while process.poll() is None and len(train_ids(root)) < done + 5:
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == status
        assert 'Traceback' not in errors
        assert done + 5 <= len(train_ids(root)) < count
        done = len(train_ids(root))
        assert all(path.read_bytes() == whole for path in train_ids(root))
        if number != signal.SIGKILL:
            assert not list(root.rglob('.*'))
    report = prepare_cityscapes(root)
    assert report.ready
    assert row(report, 'train').endswith(f'{count - 1} {count - 1 - done} 0')
    assert len(train_ids(root)) == count
    assert all(path.read_bytes() == whole for path in train_ids(root))
    assert not list(root.rglob('.*'))


@pytest.mark.parametrize(
    ('options', 'status'), [(['--check'], 1), ([], 0), (['--jobs', '-1'], 2)]
)
def test_the_tool_says_by_its_status_whether_all_is_ready(
    root, monkeypatch, capsys, options, status
):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), str(root), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert ended.value.code == status
    output, errors = capsys.readouterr()
    if status == 2:
        assert 'error: jobs must be at least 1' in errors
    else:
        assert output.endswith(f'\n{"not " if status else ""}ready\n')
