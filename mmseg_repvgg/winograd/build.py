"""Compile ``winograd.cpp`` when it is first needed, and keep the library.

It is compiled for the processor it will run on, which no wheel could be, by the machine's
C++ compiler. The library has neither Python nor torch in it. It is kept in the user's
cache under a hash of the source, the compiler, its flags and the processor.
"""

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
from pathlib import Path

from .library_cache import find_library, store_library

SOURCE = Path(__file__).with_name('winograd.cpp')
FLAGS = ('-std=c++17', '-O3', '-march=native', '-fno-math-errno', '-fPIC')

_log = logging.getLogger(__name__)
_lock = threading.Lock()


def library() -> ctypes.CDLL | None:
    """Return the compiled library, or None, after one warning, if there is none.

    Its function ``winograd_conv`` uses as many threads as it is told, and several threads
    may call it at a time.
    """
    with _lock:
        return _library()


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        name = _name()
        stored = find_library(name)
        if stored is not None:
            # A library that an older system has left may not load.
            with contextlib.suppress(OSError):
                return _load(stored)
        return _build(name)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _log.warning(
            "%s cannot be compiled: %s. PyTorch's own convolutions are used. Install g++ "
            'with OpenMP, or name a compiler in CXX',
            SOURCE.name,
            getattr(error, 'stderr', None) or error,
        )
        return None


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    loaded.winograd_conv.argtypes = (
        [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 7 + [ctypes.c_int] * 2
    )
    return loaded


def _name() -> str:
    """Return the name of the library, which depends on all that it is made from."""
    made_from = repr((SOURCE.read_bytes(), _compiler(), _flags(), _machine()))
    return f'winograd-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so'


def _build(name: str) -> ctypes.CDLL:
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f'there is no {compiler[0]}')
    with tempfile.TemporaryDirectory() as folder:
        unlinked, linked = f'{folder}/winograd.o', f'{folder}/winograd.so'
        # Linked without OpenMP, the library uses the one that torch has loaded, and its
        # threads. Threads of a second OpenMP would compete with them.
        for command in (
            [*compiler, *_flags(), '-fopenmp', '-c', str(SOURCE), '-o', unlinked],
            [*compiler, '-shared', unlinked, '-o', linked],
        ):
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                errors='replace',
                timeout=300,
            )
        try:
            return _load(store_library(Path(linked), name))
        except OSError as error:
            _log.warning(
                'Winograd convolutions are compiled for this process alone: no cache can '
                'be kept (%s). XDG_CACHE_HOME may name a folder for it',
                error,
            )
            # Once loaded, the library does not need its file.
            return _load(Path(linked))


def _compiler() -> list[str]:
    return shlex.split(os.environ.get('CXX', '')) or ['g++']


def _flags() -> list[str]:
    """Return the compiler's flags; of two that disagree, the later counts."""
    # Not CXXFLAGS: conda's compilers set it to -march=nocona, which has no AVX.
    return [*FLAGS, *shlex.split(os.environ.get('WINOGRAD_CXXFLAGS', ''))]


def _machine() -> str:
    """Describe the processor, on which ``-march=native`` depends, and the C library."""
    system = ' '.join(platform.libc_ver())
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith(('flags', 'Features')):
                return f'{line} {system}'
    return f'{platform.processor()} {platform.machine()} {system}'
