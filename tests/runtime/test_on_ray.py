"""Images are segmented on a Ray cluster, each once, whatever happens to the workers."""

import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from repvgg_runtime.errors import ConfigError
from repvgg_runtime.inputs import Input, find_inputs
from repvgg_runtime.on_ray import SegmentBatch, predict_on_ray
from repvgg_runtime.outputs import Outputs, Places
from repvgg_runtime.predict import main
from repvgg_runtime.segmenter import ExportedSegmenter

pytest.importorskip('ray')
pyarrow = pytest.importorskip('pyarrow')
parquet = pytest.importorskip('pyarrow.parquet')

REPO = Path(__file__).parents[2]
COUNT = 2000


@pytest.fixture
def many(tmp_path, street_images):
    """2,000 small images, two of which are broken."""
    folder = tmp_path / 'many'
    image = cv2.resize(cv2.imread(str(street_images[0])), (32, 16))
    for index in range(COUNT):
        path = folder / f'{index % 7}' / f'{index:04d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.roll(image, index, 1))
    for index in (5, 1500):
        (folder / f'{index % 7}' / f'{index:04d}.png').write_text('no image')
    return folder


@pytest.fixture
def ray_folder():
    """A folder with a short name, since the names of sockets are limited."""
    folder = tempfile.mkdtemp(prefix='ray', dir='/tmp')
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def workers(start) -> list[int]:
    """Process ids of the workers that this test has started."""
    found = []
    for pid in sorted(start.left()):
        with contextlib.suppress(OSError):  # It may end now.
            if b'SegmentBatch' in Path(f'/proc/{pid}/cmdline').read_bytes():
                found.append(pid)
    return found


@pytest.mark.slow
def test_killed_workers_lose_no_image_and_repeat_none(
    exported, many, tmp_path, start, ray_folder
):
    file = exported('onnx', output='labels')
    command = [sys.executable, '-m', 'repvgg_runtime.predict', 'many', '-o', 'out']
    command += ['-m', file, '--save', 'labels', '--batch-size', 4, '--overwrite']
    command += ['--ray', 'local', '--workers', 2]
    process = start(*command, cwd=tmp_path, PYTHONPATH=str(REPO), RAY_TMPDIR=ray_folder)
    chance = random.Random(0)
    killed = []
    for least in (50, 500, 1000):

        def alive(least=least):
            enough = len(list(tmp_path.glob('out/labels/*/*.png'))) >= least
            return enough and [pid for pid in workers(start) if pid not in killed]

        killed.append(chance.choice(process.wait_until(alive)))
        os.kill(killed[-1], signal.SIGKILL)
    said = process.finish()
    assert process.returncode == 1, said
    assert len(set(killed)) == 3
    assert f'images: {COUNT - 2}, ' in said
    assert 'failed: 2' in said
    found = sorted(path for path in (tmp_path / 'out').rglob('*.png'))
    assert len(found) == COUNT - 2
    expected = ExportedSegmenter(file)
    for path in found[::100]:
        image = many / path.relative_to(tmp_path / 'out' / 'labels')
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, expected(image))
    for path in found:
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (16, 32)


@pytest.mark.slow
def test_the_example_of_the_docs_reads_parquet(
    exported, street_images, tmp_path, start, ray_folder
):
    text = (REPO / 'docs' / 'inference.md').read_text()
    code = text[text.index('import ray\n') :]
    code = code[: code.index('```')]
    model, results = exported('onnx', output='labels'), tmp_path / 'results'
    code = code.replace('/models/street.onnx', str(model))
    code = code.replace("'/results'", repr(str(results)))
    code = code.replace('import ray\n', 'import ray\nray.init(num_cpus=2)\n')
    rows = dict(
        path=[path.stem for path in street_images],
        bytes=[path.read_bytes() for path in street_images],
    )
    parquet.write_table(pyarrow.table(rows), tmp_path / 'frames.parquet')
    process = start(
        *(sys.executable, '-c', code),
        cwd=tmp_path,
        PYTHONPATH=str(REPO),
        RAY_TMPDIR=ray_folder,
    )
    assert process.succeed().splitlines()[-1] == '[]'
    found = sorted(path.stem for path in (results / 'labels').iterdir())
    assert found == [path.stem for path in street_images]


@pytest.mark.slow
def test_addresses_of_images_are_segmented(
    exported, street_images, tmp_path, start, ray_folder
):
    shutil.copy(street_images[0], tmp_path / 'a.png')
    (tmp_path / 'torn.png').write_text('no image')
    command = [sys.executable, '-m', 'repvgg_runtime.predict', f'file://{tmp_path}']
    command += ['-m', exported('onnx', output='labels'), '-o', 'out']
    command += ['--ray', 'local', '--workers', 1]
    process = start(*command, cwd=tmp_path, PYTHONPATH=str(REPO), RAY_TMPDIR=ray_folder)
    said = process.finish()
    assert process.returncode == 1, said
    assert 'images: 1, ' in said
    assert 'torn.png is truncated or not an image' in said
    assert (tmp_path / 'out/labels/a.png').is_file()


def test_an_image_that_cannot_be_resized_does_not_stop_a_worker(
    trained, street_images, tmp_path
):
    cfg = Config.fromfile(trained[0])
    resize = dict(type='Resize', scale=(96, 48), keep_ratio=True)
    cfg.test_dataloader.dataset.pipeline.insert(1, resize)
    cfg.dump(tmp_path / 'resizing.py')
    worker = SegmentBatch(
        dict(model=trained[1], config=tmp_path / 'resizing.py', device='cpu'),
        Places(str(tmp_path / 'out'), ['labels']),
        {'a': 'a', 'thin': 'thin'},
        {},
    )
    thin = cv2.imencode('.png', np.zeros((1, 500, 3), np.uint8))[1].tobytes()
    batch = {'path': ['a', 'thin'], 'bytes': [street_images[0].read_bytes(), thin]}
    fine, wrong = worker(batch)['error']
    assert fine == ''
    assert 'an image of 1x500 pixels cannot be resized' in wrong
    assert (tmp_path / 'out/labels/a.png').is_file()


def test_what_is_done_is_left_out_by_a_worker(exported, street_images, tmp_path):
    file, path = str(exported('onnx', output='labels')), str(street_images[0])
    places = Places(str(tmp_path / 'out'), ['labels'])
    batch = {'path': [path], 'bytes': [street_images[0].read_bytes()]}
    worker = SegmentBatch(dict(model=file), places, {path: 'a'}, {})
    assert worker(batch)['error'].tolist() == ['']
    before = (tmp_path / 'out' / 'labels' / 'a.png').stat().st_mtime_ns
    worker(batch)
    assert (tmp_path / 'out' / 'labels' / 'a.png').stat().st_mtime_ns == before
    again = SegmentBatch(dict(model=file), places, {path: 'a'}, {}, overwrite=True)
    again(batch)
    assert (tmp_path / 'out' / 'labels' / 'a.png').stat().st_mtime_ns > before


def test_a_broken_image_is_named_by_a_worker(exported, tmp_path):
    worker = SegmentBatch(
        dict(model=str(exported('onnx', output='labels'))),
        Places(str(tmp_path), ['labels']),
        {'a.png': 'a'},
        {},
    )
    found = worker({'path': ['a.png'], 'bytes': [b'no image']})
    assert 'the image a.png is truncated or not an image' in found['error'][0]


def test_a_worker_takes_images_of_five_bands(five_bands, tmp_path):
    config, checkpoint, files = five_bands
    path = str(files[0])
    worker = SegmentBatch(
        dict(model=checkpoint, config=config, device='cpu', engine='torch'),
        Places(str(tmp_path), ['labels', 'overlay']),
        {path: 'a', 'torn.tif': 'b'},
        {},
    )
    data = files[0].read_bytes()
    batch = {'path': np.array([path, 'torn.tif']), 'bytes': [data, data[:9000]]}
    fine, torn = worker(batch)['error']
    assert fine == ''
    assert 'torn.tif is truncated or not a TIFF file' in torn
    assert cv2.imread(str(tmp_path / 'labels/a.png'), -1).shape == (64, 128)
    assert (tmp_path / 'overlay/a.jpg').is_file()


def test_a_cluster_that_is_not_there_is_an_error(street_images, tmp_path, monkeypatch):
    # Another program may run a cluster on this machine.
    monkeypatch.setattr('ray.init', Mock(side_effect=ConnectionError('none found')))
    images = find_inputs([str(street_images[0])])
    with pytest.raises(ConfigError, match='no Ray cluster at auto'):
        predict_on_ray('auto', images, Places(str(tmp_path), ['labels']), {}, {})


def test_missing_images_are_named_without_a_cluster(tmp_path):
    images = [Input(str(tmp_path / 'gone.png'), 'gone')]
    model, places = dict(model='x.onnx'), Places(str(tmp_path), ['labels'])
    broken = predict_on_ray('local', images, places, model, {})
    assert broken == {images[0].path: f'the image {images[0].path} does not exist'}


@pytest.mark.slow
def test_a_worker_that_cannot_begin_is_an_error(
    exported, street_images, tmp_path, start, ray_folder
):
    file = exported('onnx', output='labels')
    command = [sys.executable, '-m', 'repvgg_runtime.predict', street_images[0]]
    command += ['-o', 'out', '-m', file, '--opacity', 2, '--ray', 'local']
    process = start(*command, cwd=tmp_path, PYTHONPATH=str(REPO), RAY_TMPDIR=ray_folder)
    said = process.finish()
    assert process.returncode == 2, said
    # Ray's own process says more.
    (error,) = re.findall('^error: a Ray worker failed: (.*)', said, flags=re.M)
    assert 'the opacity must be from 0 to 1, but got 2.0' in error


def test_an_address_where_nothing_listens_is_an_error(street_images, tmp_path, free_port):
    images = find_inputs([str(street_images[0])])
    for address in (f'localhost:{free_port()}', 'ray://localhost:99999'):
        with pytest.raises(ConfigError, match=f'no Ray cluster at {address}'):
            predict_on_ray(address, images, Places(str(tmp_path), ['labels']), {}, {})


def test_an_image_that_cannot_be_written_is_named_by_a_worker(
    exported, street_images, tmp_path, monkeypatch
):
    path = str(street_images[0])
    worker = SegmentBatch(
        dict(model=str(exported('onnx', output='labels'))),
        Places(str(tmp_path), ['overlay']),
        {path: 'a', 'b': 'b'},
        {},
    )
    wide = np.zeros((1, 65_501, 3), np.uint8)
    monkeypatch.setattr(Outputs, 'picture', lambda *args: wide)
    found = worker({'path': [path], 'bytes': [street_images[0].read_bytes()]})
    assert 'a of 65501x1 pixels cannot be written' in found['error'][0]


def test_a_video_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('film.mp4').touch()
    assert main(['film.mp4', '-o', 'out', '-m', 'x.onnx', '--ray', 'local']) == 2
    assert '--ray takes images only, but got film.mp4' in capsys.readouterr().err
