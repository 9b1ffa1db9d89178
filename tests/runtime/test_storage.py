"""Files of this machine and of object stores are read and written alike."""

import errno
import os
import uuid

import pytest

from repvgg_runtime import storage
from repvgg_runtime.errors import ConfigError, DataError, ImageError, WriteError
from repvgg_runtime.images import read_image
from repvgg_runtime.inputs import find_inputs


@pytest.fixture(params=['path', 'file', 'memory'])
def folder(request, tmp_path):
    folders = dict(path=tmp_path, file=f'file://{tmp_path}')
    return str(folders.get(request.param, f'memory://{uuid.uuid4().hex}'))


@pytest.mark.parametrize('address', ['none://a/b.png', 'sftp://a/b.png'])
def test_a_store_that_is_not_installed_is_an_error(address):
    with pytest.raises(ConfigError, match=f'{address} cannot be opened'):
        storage.read(address)


def test_files_come_back(folder):
    assert not storage.exists(f'{folder}/sub/a.bin')
    storage.write(f'{folder}/sub/a.bin', b'abc')
    storage.write(f'{folder}/b.bin', b'')
    assert storage.exists(f'{folder}/sub/a.bin')
    assert storage.read(f'{folder}/sub/a.bin') == b'abc'
    assert sorted(storage.files_below(folder)) == ['b.bin', 'sub/a.bin']


def test_a_store_that_refuses_a_file_is_an_error(monkeypatch):
    def refuse(*args):
        raise PermissionError('no right to write')

    monkeypatch.setattr(
        'fsspec.implementations.memory.MemoryFileSystem.pipe_file', refuse
    )
    with pytest.raises(WriteError, match='memory://a/b.bin cannot be written.*no right'):
        storage.write('memory://a/b.bin', b'abc')


def test_a_store_that_refuses_to_be_read_is_an_error(monkeypatch):
    class NoCredentialsError(Exception):
        """As botocore's, which is no OSError."""

    def refuse(*args):
        raise NoCredentialsError

    store = 'fsspec.implementations.memory.MemoryFileSystem'
    for name in ('cat_file', 'exists', 'find'):
        monkeypatch.setattr(f'{store}.{name}', refuse)
    with pytest.raises(ImageError, match='memory://a/b.png cannot be read.*NoCred'):
        storage.read_image_file('memory://a/b.png')
    with pytest.raises(ConfigError, match='memory://a/b.png cannot be looked up: NoCred'):
        storage.exists('memory://a/b.png')
    with pytest.raises(DataError, match='memory://a cannot be listed: NoCred'):
        storage.files_below('memory://a')


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / 'locked').mkdir()
    scandir = os.scandir

    # Tests may run as root, who may read everything.
    def refuse(path):
        if str(path).endswith('locked'):
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(DataError, match='the folder .*locked may not be read'):
        storage.files_below(str(tmp_path))


def test_links_to_folders_are_followed(tmp_path):
    (tmp_path / 'camera').mkdir()
    (tmp_path / 'camera' / 'a.png').touch()
    folder = tmp_path / 'folder'
    folder.mkdir()
    (folder / 'one').symlink_to(tmp_path / 'camera')
    (folder / 'loop').symlink_to(folder)
    assert storage.files_below(str(folder)) == ['one/a.png']


def test_a_missing_file_is_an_error(folder):
    with pytest.raises(FileNotFoundError):
        storage.read(f'{folder}/none')


def test_images_are_found_and_read(folder, street_images):
    data = street_images[0].read_bytes()
    for name in ('sub/b.png', 'a.png', 'notes.txt'):
        storage.write(f'{folder}/{name}', data)
    inputs = find_inputs([folder])
    assert [(each.path, each.name) for each in inputs] == [
        (f'{folder}/a.png', 'a'),
        (f'{folder}/sub/b.png', 'sub/b'),
    ]
    assert read_image(inputs[0].path).shape == (64, 128, 3)
    assert find_inputs([f'{folder}/a.png'])[0].name == 'a'
