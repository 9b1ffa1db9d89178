"""Only what the user has built, and nobody else may change, is found in the cache."""

import os
import socket
import stat

import pytest

from repvgg_runtime.kernels import library_cache
from repvgg_runtime.kernels.library_cache import (
    cache_folder,
    find_libraries,
    store_library,
)

pytestmark = pytest.mark.skipif(not hasattr(os, 'getuid'), reason='needs POSIX')


@pytest.fixture(autouse=True)
def _root(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def build(folder, content=b'code'):
    path = folder / 'built'
    path.write_bytes(content)
    return path


def find(name):
    return list(find_libraries(name))


@pytest.fixture
def stored(tmp_path):
    return store_library(build(tmp_path), 'x.so')


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_stored_is_found_and_private(open_umask, stored):
    assert find('x.so') == [stored]
    assert find('y.so') == []
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]
    for path in (stored, stored.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize('content', [b'', b'cod', b'other'])
def test_other_content_is_not_found(stored, content, caplog, tmp_path):
    stored.write_bytes(content)
    assert find('x.so') == []
    assert f'{stored} is not what was built' in caplog.text
    assert store_library(build(tmp_path), 'x.so') == stored
    assert find('x.so') == [stored]


def test_libraries_beside_torn_ones_are_found(stored, tmp_path):
    other = store_library(build(tmp_path, b'of another system'), 'x.so')
    for number in range(5):
        store_library(build(tmp_path, bytes([number])), 'x.so').write_bytes(b'torn')
    assert set(find('x.so')) == {stored, other}


@pytest.mark.parametrize('mode', [0o720, 0o702])
def test_a_file_that_others_may_write_is_not_found(stored, mode, caplog):
    stored.chmod(mode)
    assert find('x.so') == []
    assert f'{stored} is not loaded' in caplog.text


@pytest.mark.parametrize('mode', [0o770, 0o707])
def test_a_folder_that_others_may_write_is_not_used(stored, mode):
    stored.parent.chmod(mode)
    assert find('x.so') == []
    with pytest.raises(PermissionError, match='others own .* or may write to it'):
        cache_folder()


def test_what_another_user_owns_is_not_used(stored, monkeypatch, caplog):
    owner = stored.stat().st_uid
    monkeypatch.setattr(os, 'getuid', lambda: owner + 1)
    assert find('x.so') == []
    with pytest.raises(PermissionError):
        cache_folder()
    # The folder is the user's, and only the file another's.
    monkeypatch.setattr(library_cache, 'cache_folder', lambda: stored.parent)
    assert find('x.so') == []
    assert f'{stored} is not loaded' in caplog.text


def test_links_and_sockets_are_not_opened(stored, monkeypatch):
    stored.rename(stored.with_name('y.so'))
    stored.symlink_to('y.so')
    assert find('x.so') == []
    stored.unlink()
    monkeypatch.chdir(stored.parent)  # The path of a socket is short.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(stored.name)
    stored.chmod(0o700)
    assert find('x.so') == []


def test_without_owners_of_files_all_are_the_users(stored, monkeypatch):
    """As on Windows, where Python shows every file as one that all may write."""
    stored.chmod(0o777)
    monkeypatch.delattr(os, 'getuid')
    assert find('x.so') == [stored]
