"""Libraries are compiled once, kept, and never half-written."""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from repvgg_runtime.errors import ConfigError
from repvgg_runtime.kernels import build
from repvgg_runtime.kernels.library_cache import find_libraries, store_library
from tests.needs import needs_compiler


def run(code, tmp_path, **env):
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'XDG_CACHE_HOME': str(tmp_path), **env},
        capture_output=True,
        text=True,
    )


CODE = """
import torch
from mmseg_repvgg.winograd.conv import WinogradConv2d
conv = torch.nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
x = torch.randn(1, 4, 9, 9)
for _ in range(2):
    torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.parametrize('compiler', ['g++ "', ' '])
def test_malformed_compiler_name_falls_back_to_pytorch(tmp_path, compiler):
    assert run(CODE, tmp_path, CXX=compiler).returncode == 0


@needs_compiler
def test_library_is_built_without_a_cache(tmp_path):
    file = tmp_path / 'no_folder'
    file.touch()
    check = 'from repvgg_runtime.kernels.build import library; assert library()'
    done = run(CODE + check, file, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('compiled for this process alone') == 1
    assert list(tmp_path.iterdir()) == [file]


def test_missing_compiler_warns_once_and_falls_back(tmp_path):
    done = run(CODE, tmp_path, CXX='no-such-compiler')
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('cannot be compiled') == 1
    assert 'there is no no-such-compiler' in done.stderr


@needs_compiler
def test_cached_library_needs_no_compiler_and_torn_one_is_rebuilt(tmp_path):
    compiler = shlex.join([*build._compiler(), '-g0'])
    assert run(CODE, tmp_path, CXX=compiler).returncode == 0
    (built,) = (tmp_path / 'mmseg_repvgg').iterdir()
    nowhere = tmp_path / 'nowhere'
    nowhere.mkdir()
    done = run(CODE, tmp_path, CXX=compiler, PATH=str(nowhere))
    assert done.returncode == 0, done.stderr
    assert 'cannot be compiled' not in done.stderr
    # Loading a truncated library would end the process, so it is built again.
    whole = built.read_bytes()
    built.write_bytes(whole[: len(whole) // 2])
    done = run(CODE, tmp_path, CXX=compiler)
    assert done.returncode == 0, done.stderr
    assert f'{built} is not what was built' in done.stderr
    assert 'cannot be compiled' not in done.stderr
    assert built.read_bytes() == whole


@needs_compiler
def test_library_is_built_once_and_uses_the_openmp_of_torch(tmp_path):
    """Threads of a second OpenMP would compete with those of torch."""
    check = """
import re
names = re.findall(r'\\S*(?:gomp|iomp|omp5)\\S*', open('/proc/self/maps').read())
assert len(set(names)) == 1, set(names)
"""
    done = run(CODE + check, tmp_path)
    assert done.returncode == 0, done.stderr
    (built,) = (tmp_path / 'mmseg_repvgg').iterdir()
    before = built.stat().st_mtime_ns
    assert run(CODE, tmp_path).returncode == 0
    assert built.stat().st_mtime_ns == before

    # Processes that build at the same time do not disturb each other.
    compiler = tmp_path / 'compiler'
    compiler.write_text(f'#!/bin/sh\nfor out; do :; done\nsleep 1\ncp {built} $out\n')
    compiler.chmod(0o755)
    with ThreadPoolExecutor(4) as pool:
        other = partial(run, CODE, tmp_path / 'other', CXX=str(compiler))
        for done in pool.map(lambda _: other(), range(4)):
            assert done.returncode == 0, done.stderr
            assert 'Winograd' not in done.stderr
            assert 'cannot be compiled' not in done.stderr
    (same,) = (tmp_path / 'other' / 'mmseg_repvgg').iterdir()
    assert same.read_bytes() == built.read_bytes()


@needs_compiler
def test_extra_compiler_flags_make_another_library(tmp_path, monkeypatch):
    done = run(CODE, tmp_path, WINOGRAD_CXXFLAGS='-O1 -no-such-flag')
    assert done.returncode == 0, done.stderr
    assert 'no-such-flag' in done.stderr
    monkeypatch.delenv('WINOGRAD_CXXFLAGS', raising=False)
    before = build._file_name(build.WINOGRAD)
    monkeypatch.setenv('WINOGRAD_CXXFLAGS', '-O1')
    assert build._file_name(build.WINOGRAD) != before


@needs_compiler
def test_compiler_error_is_quoted(tmp_path):
    broken = tmp_path / 'broken'
    broken.write_text('#!/bin/sh\necho out of order >&2; exit 1\n')
    broken.chmod(0o755)
    done = run(CODE, tmp_path / 'cache', CXX=str(broken))
    assert done.returncode == 0, done.stderr
    assert 'out of order' in done.stderr


@needs_compiler
@pytest.mark.parametrize('macros', [[], ['-U__AMX_BF16__'], ['-DWINOGRAD_EMULATE_TILES']])
def test_sources_compile_without_a_warning(macros):
    """GCC warns of code that other compilers refuse."""
    flags = [*build.FLAGS, '-fopenmp', '-fsyntax-only', '-Werror', *macros]
    done = subprocess.run(
        [*build._compiler(), *flags, str(build.SOURCE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_each_source_flag_compiler_and_processor_has_its_library(tmp_path, monkeypatch):
    source = tmp_path / 'source.cpp'
    source.write_text('before')
    library = build.Library('x', (source,))
    names = [build._file_name(library)]
    assert build._file_name(library) == names[0]
    source.write_text('after')
    names.append(build._file_name(library))
    for field in ('compiling', 'linking'):
        names.append(build._file_name(replace(library, **{field: ('-g',)})))
    monkeypatch.setenv('CXX', 'another')
    names.append(build._file_name(library))
    monkeypatch.setattr(build, '_machine', lambda: 'another')
    names.append(build._file_name(library))
    assert len(set(names)) == len(names)


# The extension of OpenVINO ------------------------------------------------------------


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """An empty cache, and a compiler that copies what was built and counts its runs."""
    pytest.importorskip('openvino', reason="needs pip install -e '.[export]'")
    built = build._find_or_build(build.openvino_extension(), Path)
    log, compiler = tmp_path / 'log', tmp_path / 'compiler'
    compiler.write_text(
        '#!/bin/sh\nfor out; do :; done\nsleep 0.2\n'
        f'echo $out >> {log}\ncp {built} $out\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return log


def add_extension(_=None):
    build.add_openvino_extension(pytest.importorskip('openvino').Core())


@needs_compiler
def test_threads_build_the_extension_once(copies):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_extension, range(4)))
    # Two sources are compiled and linked.
    assert len(copies.read_text().splitlines()) == 3


@needs_compiler
def test_stored_extension_that_does_not_load_is_built_again_once(copies, tmp_path):
    name = build._file_name(build.openvino_extension())
    stale = tmp_path / 'stale.so'
    stale.write_text('of an older system')
    store_library(stale, name)
    for _ in range(2):
        add_extension()
        assert len(copies.read_text().splitlines()) == 3
    assert len(list(find_libraries(name))) == 2


@needs_compiler
def test_extension_without_a_cache_is_built_for_the_process(copies, monkeypatch, caplog):
    monkeypatch.setenv('XDG_CACHE_HOME', str(copies))
    copies.touch()
    add_extension()
    assert 'compiled for this process alone' in caplog.text


@needs_compiler
def test_extension_is_written_where_it_is_wanted(copies, tmp_path):
    build.save_openvino_extension(tmp_path / 'new' / 'winograd.so')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['winograd.so']


def test_extension_that_cannot_be_compiled_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip('openvino')
    monkeypatch.setenv('CXX', 'no-compiler')
    with pytest.raises(ConfigError, match='there is no no-compiler. Install'):
        build.save_openvino_extension(tmp_path / 'winograd.so')
    assert not list(tmp_path.iterdir())


def test_openvino_without_headers_is_an_error(tmp_path, monkeypatch):
    openvino = pytest.importorskip('openvino')
    monkeypatch.setattr(openvino, '__file__', str(tmp_path / '__init__.py'))
    with pytest.raises(ConfigError, match=r'OpenVINO in .* has no C\+\+ headers'):
        build.openvino_extension()
