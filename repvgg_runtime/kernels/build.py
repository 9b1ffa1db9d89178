"""Compile the C++ kernels when they are first needed, and keep the libraries.

They are compiled for the processor they will run on, which no wheel could be, by the
machine's C++ compiler. A library has neither Python nor torch in it. It is kept in the
user's cache under a hash of the sources, the compiler, its flags and the processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..atomic_write import atomic_path
from ..errors import ConfigError
from ..extras import require
from ..processor import instruction_sets, processor_name
from .library_cache import find_libraries, store_library

SOURCE = Path(__file__).with_name('winograd.cpp')
HEADERS = tuple(sorted(SOURCE.parent.glob('*.h')))
FLAGS = ('-std=c++17', '-O3', '-march=native', '-fno-math-errno', '-fPIC')

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_T = TypeVar('_T')


@dataclass(frozen=True)
class Library:
    """Sources and compiler flags of a library.

    Attributes:
        name: Name of the library.
        sources: The C++ files.
        compiling: Flags for compiling them, besides :data:`FLAGS`.
        linking: Flags for linking them.
    """

    name: str
    sources: tuple[Path, ...]
    compiling: tuple[str, ...] = ()
    linking: tuple[str, ...] = ()


# Linked without OpenMP, the library uses the one that torch has loaded, and its threads.
# Threads of a second OpenMP would compete with them.
WINOGRAD = Library('winograd', (SOURCE,), ('-fopenmp',))


def library() -> ctypes.CDLL | None:
    """Return the compiled ``winograd.cpp``, or None, after one warning, if there is none.

    Its function ``winograd_conv`` uses as many threads as it is told, and several threads
    may call it at a time. ``winograd_has_matrix_units`` says whether precisions other
    than ``'highest'`` have products in bfloat16 on this processor.
    """
    with _lock:
        return _winograd()


@functools.cache
def _winograd() -> ctypes.CDLL | None:
    try:
        return _find_or_build(WINOGRAD, _load)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _log.warning(
            "%s cannot be compiled: %s. PyTorch's own convolutions are used. Install g++ "
            'with OpenMP, or name a compiler in CXX',
            SOURCE.name,
            _said(error),
        )
        return None


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    loaded.winograd_conv.argtypes = (
        [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 7 + [ctypes.c_int] * 3
    )
    return loaded


def openvino_extension() -> Library:
    """Return the sources and flags of OpenVINO's extension for Winograd's convolution.

    It is compiled against the headers in OpenVINO's wheel, and computes in its threads.

    Raises:
        ConfigError: If this OpenVINO has no headers.
        ExtraError: If OpenVINO is not installed.
    """
    openvino = require('openvino')
    root = Path(openvino.__file__).parent
    libraries = [
        str(path)
        for pattern in ('libopenvino.so*', 'libtbb.so*')
        for path in sorted((root / 'libs').glob(pattern))
    ]
    if not (root / 'include').is_dir() or len(libraries) < 2:
        raise ConfigError(
            f'OpenVINO in {root} has no C++ headers and libraries, which the Winograd '
            'engine needs: pip install openvino'
        )
    return Library(
        f'openvino-{openvino.__version__.partition("-")[0]}',
        (SOURCE, SOURCE.with_name('openvino_extension.cpp')),
        ('-DWINOGRAD_TBB', '-w', f'-I{root / "include"}'),
        # It stays when the core that loaded it ends: a model may hold its operations.
        (*libraries, '-Wl,-z,nodelete'),
    )


def add_openvino_extension(core: Any) -> None:
    """Add Winograd's convolution to an ``openvino.Core``, which can then read its files.

    Raises:
        ConfigError: If it cannot be compiled or loaded.
        ExtraError: If OpenVINO is not installed.
    """

    def load(path: Path) -> None:
        try:
            core.add_extension(str(path))
        except RuntimeError as error:
            raise OSError(str(error)) from error

    library = openvino_extension()
    with _lock, _naming_the_compiler():
        _find_or_build(library, load)


def save_openvino_extension(path: Path) -> None:
    """Compile Winograd's convolution for OpenVINO in programs of your own.

    Args:
        path: The library to write.

    Raises:
        ConfigError: If it cannot be compiled.
        ExtraError: If OpenVINO is not installed.
        WriteError: If the file cannot be written.
    """
    library = openvino_extension()
    with atomic_path(path) as temporary, _naming_the_compiler():
        compile_library(library, temporary)


@contextlib.contextmanager
def _naming_the_compiler() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f'the Winograd engine for OpenVINO cannot be compiled: {_said(error)}. '
            'Install g++, or name a compiler in CXX'
        ) from error


def _find_or_build(library: Library, load: Callable[[Path], _T]) -> _T:
    """Load a library from the cache, or compile, keep and load it."""
    name = _file_name(library)
    for stored in find_libraries(name):
        # A library that an older system has left may not load.
        with contextlib.suppress(OSError):
            return load(stored)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, name)
        compile_library(library, built)
        try:
            return load(store_library(built, name))
        except OSError as error:
            _log.warning(
                'Winograd convolutions are compiled for this process alone: no cache can '
                'be kept (%s). XDG_CACHE_HOME may name a folder for it',
                error,
            )
            # Once loaded, the library does not need its file.
            return load(built)


def compile_library(library: Library, path: Path) -> None:
    """Compile a library to a file.

    Raises:
        OSError: If there is no compiler.
        subprocess.SubprocessError: If it fails.
    """
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f'there is no {compiler[0]}')
    with tempfile.TemporaryDirectory() as folder:
        objects = [f'{folder}/{source.stem}.o' for source in library.sources]
        flags = [*_flags(), *library.compiling, '-c']
        commands = [
            [*compiler, *flags, str(source), '-o', compiled]
            for source, compiled in zip(library.sources, objects)
        ]
        linked = ['-shared', *objects, *library.linking, '-o', str(path)]
        for command in [*commands, [*compiler, *linked]]:
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                errors='replace',
                timeout=300,
            )


def _file_name(library: Library) -> str:
    """Return a file name that depends on sources, compiler, flags and processor."""
    sources = [source.read_bytes() for source in (*library.sources, *HEADERS)]
    made_from = repr((library, sources, _compiler(), _flags(), _machine()))
    return f'{library.name}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so'


def _compiler() -> list[str]:
    return shlex.split(os.environ.get('CXX', '')) or ['g++']


def _flags() -> list[str]:
    """Return the compiler's flags; of two that disagree, the later counts."""
    # Not CXXFLAGS: conda's compilers set it to -march=nocona, which has no AVX.
    return [*FLAGS, *shlex.split(os.environ.get('WINOGRAD_CXXFLAGS', ''))]


def _machine() -> str:
    """Describe the processor, on which ``-march=native`` depends, and the C library."""
    sets = instruction_sets() or [processor_name(), platform.machine()]
    return ' '.join([*sets, *platform.libc_ver()])


def _said(error: Exception) -> object:
    return getattr(error, 'stderr', None) or error
