"""A file is replaced by its new content whole, or not at all."""

import os

import pytest

from mmseg_repvgg.errors import ConfigError, WriteError
from repvgg_runtime.atomic_write import atomic_path, write_atomically


def test_file_is_replaced_and_folders_are_made(tmp_path):
    path = tmp_path / 'new' / 'folder' / 'a.txt'
    for content in (b'old', b'new'):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ['a.txt']


@pytest.mark.parametrize('name', ['я' * 120 + '.png', 'n' * 251 + '.png'])
def test_names_may_be_as_long_as_names_can_be(tmp_path, name):
    write_atomically(tmp_path / name, b'abc')
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_bytes(b'new')
    assert os.listdir(tmp_path) == [name]


def test_mode_follows_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / 'a', b'')
    finally:
        os.umask(before)
    assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize('error', [KeyboardInterrupt, ConfigError, ValueError])
def test_error_in_the_block_keeps_the_old_file(tmp_path, error):
    path = tmp_path / 'a.png'
    path.write_text('old')

    def write():
        with atomic_path(path) as temporary:
            assert temporary.suffix == '.png'
            temporary.write_text('half')
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['a.png']


def test_failed_write_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    (tmp_path / 'a').write_text('old')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(WriteError, match='a cannot be written: No space left.*Free'):
        write_atomically(tmp_path / 'a', b'new')
    assert (tmp_path / 'a').read_text() == 'old'
    assert os.listdir(tmp_path) == ['a']


def test_link_is_replaced_rather_than_followed(tmp_path):
    other = tmp_path / 'other'
    other.write_text('stays')
    (tmp_path / 'link').symlink_to(other)
    write_atomically(tmp_path / 'link', b'new')
    assert not (tmp_path / 'link').is_symlink()
    assert other.read_text() == 'stays'
