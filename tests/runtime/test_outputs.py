"""Files of predictions, each whole or not there."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from repvgg_runtime.errors import ConfigError, ImageError, WriteError
from repvgg_runtime.outputs import KINDS, Outputs, Places, write_film
from repvgg_runtime.segmenter import BaseSegmenter, Prediction

IMAGE = np.full((4, 6, 3), 100, np.uint8)
LABELS = np.array([[0, 1, 2, 0, 1, 2]] * 4, np.uint8)
FOUND = Prediction(LABELS, np.full((3, 4, 6), 1 / 3, np.float32))


class Fixed(BaseSegmenter):
    def predict(self, images, *, probabilities=False):
        return [FOUND] * len(images)


def fixed(label_ids=None):
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    return Fixed(['road', 'car', 'sky'], palette, label_ids)


def test_every_kind_is_written_into_a_folder_of_its_name(tmp_path):
    outputs = Outputs(Places(str(tmp_path), list(KINDS)), fixed())
    assert not outputs.places.exist('sub/a')
    outputs.write('sub/a', IMAGE, FOUND)
    assert outputs.places.exist('sub/a')
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*.*')}
    assert found == {f'{kind}/sub/a{suffix}' for kind, suffix in KINDS.items()}
    labels = cv2.imread(outputs.places.path('sub/a', 'labels'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, LABELS)
    pair = cv2.imread(outputs.places.path('sub/a', 'side-by-side'))
    assert pair.shape == (4, 6 + 4 + 6, 3)
    probabilities = np.load(outputs.places.path('sub/a', 'probabilities'))
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (3, 4, 6)


def test_label_maps_may_hold_the_ids_of_the_data_set(tmp_path):
    outputs = Outputs(
        Places(str(tmp_path), ['labels']), fixed([7, 26, 23]), ids='dataset'
    )
    outputs.write('a', IMAGE, FOUND)
    labels = cv2.imread(outputs.places.path('a', 'labels'), cv2.IMREAD_UNCHANGED)
    assert labels[0].tolist() == [7, 26, 23, 7, 26, 23]


def test_ids_that_the_model_does_not_know_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='use --ids train'):
        Outputs(Places(str(tmp_path), ['labels']), fixed(), ids='dataset')


def test_an_opacity_beyond_1_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'from 0 to 1, but got 1\.5'):
        Outputs(Places(str(tmp_path), ['overlay']), fixed(), opacity=1.5)


def test_a_film_has_all_frames(tmp_path):
    with write_film(tmp_path / 'new' / 'film.mp4', 10) as film:
        for value in (0, 100, 200):
            film(np.full((32, 48, 3), value, np.uint8))
    capture = cv2.VideoCapture(str(tmp_path / 'new' / 'film.mp4'))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert [round(frame.mean(), -1) for frame in frames] == [0, 100, 200]
    assert capture.get(cv2.CAP_PROP_FPS) == 10


def test_frames_of_odd_sides_are_whole(tmp_path):
    frame = np.zeros((33, 49, 3), np.uint8)
    frame[:, 44:] = 255
    with write_film(tmp_path / 'film.mp4', 10) as film:
        film(frame)
    _, found = cv2.VideoCapture(str(tmp_path / 'film.mp4')).read()
    assert found.shape == (34, 50, 3)
    assert found[:, 46:].mean() > 200
    assert found[:, :42].mean() < 50


def test_a_film_that_fails_leaves_nothing(tmp_path):
    def fail():
        with write_film(tmp_path / 'film.mp4', 10) as film:
            film(np.zeros((32, 48, 3), np.uint8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'labels').write_text('a file')
    with pytest.raises(WriteError, match='labels/a.png cannot be written'):
        Outputs(Places(str(tmp_path), ['labels']), fixed()).write('a', IMAGE, FOUND)


def test_an_image_too_wide_for_jpeg_is_named(tmp_path):
    image = np.zeros((1, 65_501, 3), np.uint8)
    found = Prediction(np.zeros((1, 65_501), np.uint8))
    outputs = Outputs(Places(str(tmp_path), ['overlay']), fixed())
    with pytest.raises(ImageError, match='sub/wide of 65501x1 pixels cannot be written'):
        outputs.write('sub/wide', image, found)


def test_a_film_that_lacks_frames_is_an_error(tmp_path):
    def lose_one():
        with write_film(tmp_path / 'film.mp4', 10) as film:
            film(np.zeros((32, 48, 3), np.uint8))
            # OpenCV drops frames of another size without an error.
            film(np.zeros((64, 48, 3), np.uint8))

    with pytest.raises(WriteError, match=r'film\.mp4 cannot be written: it has 1 of 2'):
        lose_one()
    assert not list(tmp_path.iterdir())


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from repvgg_runtime.outputs import write_film
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
with write_film(Path(sys.argv[1]), 10) as film:
    for seed in range(20):
        film(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8))
"""


def test_a_film_on_a_full_disk_is_an_error(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', FULL, tmp_path / 'film.mp4'],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert 'WriteError' in done.stderr
    assert 'film.mp4 cannot be written: it has 0 of 20 frames' in done.stderr
    assert not list(tmp_path.iterdir())
