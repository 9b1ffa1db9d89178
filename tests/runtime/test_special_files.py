"""Named pipes, devices and dangling links are refused at once wherever files are read."""

import os
import signal
import socket
from pathlib import Path

import pytest

from benchmarks.report import Report
from mmseg_repvgg.analysis.curves import read_log
from mmseg_repvgg.checkpoints.files import (
    read_checkpoint,
    write_checkpoint,
    write_with_checksum,
)
from mmseg_repvgg.checkpoints.loading import find_resumable
from mmseg_repvgg.datasets.png_files import read_labels, verify_png
from mmseg_repvgg.datasets.transforms import LoadCheckedAnnotations, LoadCheckedImage
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.errors import CheckpointError, UserError, WriteError
from mmseg_repvgg.export.exported import check_path
from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.backends import open_backend
from repvgg_runtime.special_files import refuse_special_file

SPECIAL = 'not a regular file|not regular'


@pytest.fixture(autouse=True)
def _hanging_is_a_failure():
    """Opening a pipe that nobody writes to would wait for ever."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail('it hangs'))
    signal.alarm(900)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def make_socket(path):
    # The path of a socket is short.
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(before)


MAKE = {
    'pipe': os.mkfifo,
    'device': lambda path: path.symlink_to('/dev/zero'),
    'socket': make_socket,
}


@pytest.mark.parametrize('kind', MAKE)
def test_special_files_are_refused(tmp_path, kind):
    MAKE[kind](tmp_path / 'x')
    with pytest.raises(OSError, match=SPECIAL):
        refuse_special_file(tmp_path / 'x')


def test_files_folders_and_missing_paths_pass(tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'link').symlink_to('file')
    (tmp_path / 'dangling').symlink_to('gone')
    for name in ('file', 'link', 'dangling', 'none', ''):
        refuse_special_file(tmp_path / name)
    refuse_special_file('s3://bucket/image.png')


def load_image(path):
    return LoadCheckedImage().transform(dict(img_path=str(path)))


def load_labels(path):
    return LoadCheckedAnnotations().transform(dict(seg_map_path=str(path)))


READERS = {
    'a.pth': read_checkpoint,
    'a.safetensors': read_checkpoint,
    'image.png': load_image,
    'labels.png': load_labels,
    'size.png': verify_png,
    'source.png': read_labels,
    'scalars.json': read_log,
    'report.json': Report.load,
    'config.py': lambda path: load_config(path),
    'a.onnx': open_backend,
    'a.xml': open_backend,
}


@pytest.mark.parametrize('kind', ['pipe', 'device'])
@pytest.mark.parametrize('name', READERS)
def test_reading_a_special_file_names_it(tmp_path, name, kind):
    MAKE[kind](tmp_path / name)
    with pytest.raises(UserError, match=rf'(?s){name}.*({SPECIAL})'):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize('name', READERS)
def test_reading_a_dangling_link_names_it(tmp_path, name):
    (tmp_path / name).symlink_to('gone')
    with pytest.raises(UserError, match=rf'(?s){name}.*(does not exist|No such file)'):
        READERS[name](tmp_path / name)


def test_weights_in_a_pipe_are_refused(tmp_path):
    pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
    (tmp_path / 'a.xml').write_text('<net/>')
    os.mkfifo(tmp_path / 'a.bin')
    with pytest.raises(UserError, match=r'not a regular file: .*a\.bin'):
        open_backend(tmp_path / 'a.xml')


WRITERS = {
    'checkpoint': (lambda path: write_checkpoint({}, path), WriteError),
    'picture': (lambda path: write_atomically(path, b'x'), WriteError),
}


@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize('kind', ['pipe', 'device'])
def test_writing_to_a_special_file_is_refused(tmp_path, kind, writer):
    write, error = WRITERS[writer]
    MAKE[kind](tmp_path / 'x')
    with pytest.raises(error, match=f'x cannot be written.*{SPECIAL}'):
        write(tmp_path / 'x')
    assert [path.name for path in tmp_path.iterdir()] == ['x']
    assert not (tmp_path / 'x').is_file()


def training_state(path: Path) -> None:
    write_checkpoint(
        dict(
            meta=dict(epoch=0, iter=2),
            state_dict={},
            message_hub={},
            optimizer={},
            param_schedulers=[],
        ),
        path,
    )


@pytest.mark.parametrize('kind', [*MAKE, 'dangling', 'folder'])
@pytest.mark.parametrize('last', ['good', 'odd', 'pipe', 'garbage', None])
def test_resuming_skips_special_files(tmp_path, kind, last):
    good, odd = tmp_path / 'iter_2.pth', tmp_path / 'iter_99.pth'
    training_state(good)
    make = {
        **MAKE,
        'dangling': lambda path: path.symlink_to('gone'),
        'folder': Path.mkdir,
    }
    make[kind](odd)
    note = tmp_path / 'last_checkpoint'
    if last == 'pipe':
        os.mkfifo(note)
    elif last:
        note.write_text(str({'good': good, 'odd': odd}.get(last, 'x' * 5000)))
    assert find_resumable(str(tmp_path)) == str(good)
    good.unlink()
    with pytest.raises(CheckpointError, match='iter_99.pth'):
        find_resumable(str(tmp_path))


def test_checksum_in_a_pipe_is_not_read(tmp_path):
    training_state(tmp_path / 'iter_2.pth')
    os.mkfifo(tmp_path / 'iter_2.pth.sha256')
    assert read_checkpoint(tmp_path / 'iter_2.pth')['meta']['iter'] == 2
    with pytest.raises(WriteError, match=SPECIAL):
        write_with_checksum(b'', tmp_path / 'iter_2.pth')


def test_export_to_a_device_is_refused(tmp_path):
    MAKE['device'](tmp_path / 'a.onnx')
    with pytest.raises(UserError, match='a.onnx is not a regular file'):
        check_path(tmp_path / 'a.onnx', 'onnx')
