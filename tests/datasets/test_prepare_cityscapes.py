"""Cityscapes is unpacked, checked, repaired and given its training ids."""

import os
import re
import resource
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.street import write_street_scenes
from mmseg_repvgg.datasets.checks import check_dataset
from mmseg_repvgg.datasets.prepare_cityscapes import (
    ARCHIVES,
    TRAIN_IDS,
    prepare_cityscapes,
)
from mmseg_repvgg.errors import DataError, WriteError

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
    """Return the numbers of sound, changed and broken pairs."""
    problems = report.problems.get(split, [])
    return report.sound[split], report.changed[split], len(problems)


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
    assert row(again, 'train') == (4, 0, 0)
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
    assert 'warning: this is not the whole official set' in str(report)
    numbers = [r'train \|     2975 \|     4 ', r'val \|      500 \|     2 ']
    assert all(re.search(line, str(report)) for line in numbers)


def test_zip_files_are_unpacked(zipped, made):
    report = prepare_cityscapes(zipped)
    assert report.ready
    assert_as_made(zipped, made)
    for path in made.glob('leftImg8bit/*/*/*'):
        assert (zipped / path.relative_to(made)).read_bytes() == path.read_bytes()
    names = {path.name for path in zipped.parent.rglob('*')}
    assert not names & {'README', 'outside.png', '._mac_leftImg8bit.png'}
    assert not os.path.exists('/outside.png')
    before = tree(zipped)
    assert prepare_cityscapes(zipped).ready
    assert tree(zipped) == before


def test_torn_files_are_repaired_from_the_zip_file(zipped, made, damage):
    prepare_cityscapes(zipped)
    for ending in ('_leftImg8bit.png', '_labelIds.png'):
        damage(first(zipped, ending))
    first(zipped, '_labelIds.png', 'val').unlink()
    assert '3 files are to be unpacked' in str(prepare_cityscapes(zipped, check=True))
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


def test_broken_files_do_not_stop_the_others(root, made, damage):
    broken = [first(root, '_leftImg8bit.png'), first(root, '_labelIds.png', 'val')]
    for path in broken:
        damage(path)
    report = prepare_cityscapes(root)
    assert not report.ready
    for path in broken:
        assert f'\n{path} cannot be read as a whole PNG' in str(report)
    assert 'https://www.cityscapes-dataset.com' in str(report)
    assert len(train_ids(root)) == sum(COUNTS.values()) - 2


def test_wrong_labels_are_reported(root):
    unknown, other_size, colored = sorted(root.glob('gtFine/*/*/*_labelIds.png'))[:3]
    ids = pixels(unknown)
    cv2.imwrite(str(unknown), np.where(ids == 7, 40, ids).astype(np.uint8))
    cv2.imwrite(str(other_size), ids[:, :100])
    cv2.imwrite(str(colored), cv2.merge([ids] * 3))
    text = str(prepare_cityscapes(root))
    assert f'{unknown} holds [40], which are not labels of this data set' in text
    assert f'{other_size} has 64x100 pixels, but its image' in text
    assert f'{colored} is not a label map: it must have one channel' in text
    assert len(train_ids(root)) == sum(COUNTS.values()) - 3


@pytest.mark.parametrize('make', [os.mkfifo, lambda path: path.symlink_to('gone')])
def test_special_files_do_not_stop_the_others(root, make):
    broken = [first(root, '_leftImg8bit.png'), first(root, '_labelIds.png', 'val')]
    for path in broken:
        path.unlink()
        make(path)
    report = prepare_cityscapes(root)
    assert not report.ready
    for path in broken:
        assert f'\n{path} ' in str(report)
    assert len(train_ids(root)) == sum(COUNTS.values()) - 2


@pytest.mark.parametrize('place', ['archive', 'member'])
def test_pipes_are_refused(zipped, place):
    if place == 'archive':
        path = zipped / ARCHIVES['gtFine']
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DataError, match='gtFine.*zip is .*named pipe'):
            prepare_cityscapes(zipped)
        return
    with zipfile.ZipFile(zipped / ARCHIVES['gtFine'], 'a') as archive:
        archive.writestr('gtFine/empty', b'')
    (zipped / 'gtFine').mkdir()
    os.mkfifo(zipped / 'gtFine' / 'empty')
    with pytest.raises(WriteError, match='empty cannot be written: .*not a regular file'):
        prepare_cityscapes(zipped)


def test_training_ids_without_their_source_are_kept(root):
    prepare_cityscapes(root)
    for path in root.rglob('*_labelIds.png'):
        path.unlink()
    before = tree(root)
    assert prepare_cityscapes(root).ready
    assert tree(root) == before
    flip(train_ids(root)[0])
    report = prepare_cityscapes(root)
    assert not report.ready
    assert f'{train_ids(root)[0]} cannot be read as a whole PNG' in str(report)


def test_check_writes_nothing(zipped, root):
    before = tree(root)
    packed = prepare_cityscapes(root, check=True)
    assert tree(root) == before
    assert not packed.ready
    files = [*root.glob('leftImg8bit/*/*/*'), *root.glob('gtFine/*/*/*')]
    assert not files
    assert packed.packed > 2 * sum(COUNTS.values()) - 1
    prepare_cityscapes(root)
    train_ids(root)[0].unlink()
    before = tree(root)
    report = prepare_cityscapes(root, check=True)
    assert tree(root) == before
    assert not report.ready
    assert row(report, 'test') == (1, 1, 0)
    prepare_cityscapes(root)
    first(root, '_labelIds.png').unlink()
    report = prepare_cityscapes(root, check=True)
    assert not report.ready
    assert '1 files are to be unpacked' in str(report)


def test_missing_files_are_reported(root):
    first(root, '_leftImg8bit.png').unlink()
    bare = first(root, '_leftImg8bit.png', 'val')
    first(root, 'labelIds.png', 'val').unlink()
    report = prepare_cityscapes(root)
    assert not report.ready
    assert '_labelIds.png has no image' in str(report)
    assert f'{bare} has no label map' in str(report)
    assert 'csDownload' in str(report)
    shutil.rmtree(root / 'leftImg8bit' / 'val')
    assert 'val: no image with a sound label map' in str(prepare_cityscapes(root))


def test_test_split_needs_no_images(root):
    shutil.rmtree(root / 'leftImg8bit' / 'test')
    report = prepare_cityscapes(root)
    assert report.ready
    assert row(report, 'test') == (0, 0, 0)


def test_hostile_chunk_does_not_stop_the_others(root):
    # Pillow raises IndexError for a short colour profile after the pixels.
    path = first(root, '_labelIds.png')
    data = path.read_bytes()
    body = b'iCCP' + b'a\0'
    chunk = struct.pack('>I', 2) + body + struct.pack('>I', zlib.crc32(body))
    path.write_bytes(data[:-12] + chunk + data[-12:])
    report = prepare_cityscapes(root)
    assert not report.ready
    assert f'\n{path} cannot be read as a whole PNG' in str(report)
    assert len(train_ids(root)) == sum(COUNTS.values()) - 1


def test_test_split_needs_no_labels(root):
    shutil.rmtree(root / 'gtFine' / 'test')
    report = prepare_cityscapes(root)
    assert report.ready
    assert row(report, 'test') == (1, 0, 0)


def test_links_are_followed_and_hidden_files_ignored(root, made, tmp_path):
    city = next((root / 'leftImg8bit' / 'train').iterdir())
    city.rename(tmp_path / 'elsewhere')
    city.symlink_to(tmp_path / 'elsewhere')
    hidden = city / '._x_leftImg8bit.png'
    hidden.write_bytes(b'macOS')
    report = prepare_cityscapes(root)
    assert report.ready
    assert not report.problems
    hidden.unlink()
    assert_as_made(root, made)


@pytest.mark.parametrize('content', ['no folder', 'empty folder', 'other files'])
def test_missing_data_set_is_an_error(tmp_path, content):
    if content != 'no folder':
        (tmp_path / 'root' / 'leftImg8bit').mkdir(parents=True)
    if content == 'other files':
        (tmp_path / 'root' / 'leftImg8bit' / 'notes.txt').touch()
    with pytest.raises(DataError, match='root does not hold Cityscapes.*free reg'):
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
    with pytest.raises(DataError, match='gtFine_trainvaltest.zip is truncated'):
        prepare_cityscapes(zipped)
    for path in zipped.glob('*/*/*/*'):
        assert path.read_bytes() == (made / path.relative_to(zipped)).read_bytes()
    assert not list(zipped.rglob('.*'))


def test_zip_file_without_its_folder_is_an_error(zipped):
    shutil.copy(zipped / ARCHIVES['leftImg8bit'], zipped / ARCHIVES['gtFine'])
    with pytest.raises(DataError, match='gtFine_trainvaltest.zip has no folder gtFine'):
        prepare_cityscapes(zipped)


def test_unwritable_folder_is_an_error(zipped):
    (zipped / 'gtFine').write_text('a file where a folder has to be')
    with pytest.raises(WriteError, match='gtFine.* cannot be written: '):
        prepare_cityscapes(zipped)


def test_training_ids_are_the_official_ones():
    labels = pytest.importorskip('cityscapesscripts.helpers.labels').labels
    official = {label.id: label.trainId for label in labels if label.id >= 0}
    assert dict(enumerate(TRAIN_IDS)) == official


def test_full_disk_leaves_nothing_half_written(zipped, made):
    def limit():
        # No file may grow beyond this: writing fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    process = subprocess.run(
        [sys.executable, str(TOOL), str(zipped)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 2
    assert 'cannot be written: File too large' in process.stderr
    assert 'Traceback' not in process.stderr
    for path in zipped.glob('*/*/*/*'):
        assert path.read_bytes() == (made / path.relative_to(zipped)).read_bytes()
    assert not list(zipped.rglob('.*'))


SIGNAL_ITSELF = """
import itertools, os, runpy, signal, sys, time
from mmseg_repvgg.datasets import prepare_cityscapes

# A process in the background of a shell starts with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

number, *sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
update, calls = prepare_cityscapes.update_labels, itertools.count(1)

def update_labels(*args):
    changed = update(*args)
    if changed and (call := next(calls)) >= 6:
        if call == 6:
            os.kill(os.getpid(), int(number))
        # The main thread acts on the signal before the work is done.
        time.sleep(0.5)
    return changed

prepare_cityscapes.update_labels = update_labels
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_killed_run_is_resumed(made, tmp_path):
    root, count = tmp_path / 'cityscapes', 60
    ids = pixels(first(made, '_labelIds.png'))
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
    whole = cv2.imencode('.png', np.array(TRAIN_IDS, np.uint8)[ids])[1].tobytes()
    done = 0
    for number, status in (
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGKILL, -signal.SIGKILL),
    ):
        command = ['-c', SIGNAL_ITSELF, str(int(number)), TOOL, root, '--jobs', '2']
        ended = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == status
        assert 'Traceback' not in ended.stderr
        assert done + 6 <= len(train_ids(root)) < count
        done = len(train_ids(root))
        assert all(path.read_bytes() == whole for path in train_ids(root))
        if number != signal.SIGKILL:
            assert not list(root.rglob('.*')), 'a temporary file was left behind'
    report = prepare_cityscapes(root)
    assert report.ready
    assert row(report, 'train') == (count - 1, count - 1 - done, 0)
    assert len(train_ids(root)) == count
    assert all(path.read_bytes() == whole for path in train_ids(root))


@pytest.mark.parametrize(
    ('options', 'status'), [(['--check'], 1), ([], 0), (['--jobs', '-1'], 2)]
)
def test_exit_status_of_the_tool(root, monkeypatch, capsys, options, status):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), str(root), *options])
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
