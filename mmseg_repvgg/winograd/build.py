"""The compiled form of Winograd convolution: built when first needed, then kept.

``winograd.cpp`` is compiled for the very processor it will run on, which no wheel could
be, by the machine's C++ compiler. It becomes a library without Python or torch in it,
kept in the user's cache (``library_cache.py``) under a name that says what it was made
from.
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
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .library_cache import cache_folder, find_library, store_library

SOURCE = Path(__file__).with_name('winograd.cpp')
FLAGS = ('-std=c++17', '-O3', '-march=native', '-fno-math-errno', '-fPIC')

_log = logging.getLogger(__name__)


class Library:
    """The compiled functions.

    Args:
        path: The shared library.

    Raises:
        OSError: If it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._conv = ctypes.CDLL(str(path)).winograd_conv
        self._conv.argtypes = (
            [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 7 + [ctypes.c_int] * 2
        )

    def winograd_conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        out_channels: int,
        dilation: int,
        groups: int,
        relu: bool,
    ) -> Tensor:
        """Convolve with stride 1 and padding ``dilation``, in float32 on a CPU.

        Uses as many threads as torch does, and may be called from several at a time.

        Args:
            x: Shape (N, in_channels, H, W), fastest if its channels are last in memory.
            weight: As :func:`~mmseg_repvgg.winograd.conv.pack` lays it out.
            bias: Shape (out_channels,), contiguous.
            out_channels: Of all groups.
            dilation: Of the kernel.
            groups: Of the channels.
            relu: Whether to put a ReLU after it.

        Returns:
            Shape (N, out_channels, H, W), channels last in memory.

        Raises:
            RuntimeError: If the sizes of weight or bias are those of another convolution.
            MemoryError: If there is not enough memory.
        """
        n, channels, height, width = x.shape
        # What is read by address is checked here, for whoever calls.
        if weight.numel() != out_channels * (channels // groups) * 9:
            raise RuntimeError(
                f'{weight.numel()} weights are not those of a 3x3 convolution from '
                f'{channels} to {out_channels} channels in {groups} groups'
            )
        if bias is not None and bias.shape != (out_channels,):
            raise RuntimeError(
                f'a bias of shape {tuple(bias.shape)} is none of {out_channels} channels'
            )
        x = x.contiguous(memory_format=torch.channels_last)
        y = x.new_empty((n, height, width, out_channels))
        failed = self._conv(
            x.data_ptr(),
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            n,
            height,
            width,
            channels,
            out_channels,
            groups,
            dilation,
            relu,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError('not enough memory for the tiles of a Winograd convolution')
        return y.permute(0, 3, 1, 2)


_one_at_a_time = threading.Lock()


def library() -> Library | None:
    """The compiled form, or None, with one warning, where it cannot be had."""
    with _one_at_a_time:
        return _library()


@functools.cache
def _library() -> Library | None:
    try:
        name = _name()
        kept = find_library(name)
        if kept is not None:
            # One that an older system has left may not load here.
            with contextlib.suppress(OSError):
                return Library(kept)
        return _build(name)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = getattr(error, 'stderr', None) or error
        _log.warning(
            "%s cannot be compiled: %s. deploy leaves PyTorch's convolutions in, and "
            'WinogradConv2d ones run in plain torch, which gains nothing. It takes g++ '
            '(or what CXX names) with OpenMP',
            SOURCE.name,
            said,
        )
        return None


def _name() -> str:
    """What the library is called, by all that it is made from."""
    made_from = (SOURCE.read_bytes(), repr((_compiler(), _flags(), _machine())).encode())
    digest = hashlib.sha256(b'\0'.join(made_from)).hexdigest()[:16]
    return f'winograd-{digest}.so'


def _build(name: str) -> Library:
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f'there is no {compiler[0]}')
    with _workshop() as (folder, cache):
        unlinked, linked = folder / 'winograd.o', folder / 'winograd.so'
        # Linked without OpenMP's own library: it finds the one that torch has brought,
        # and so torch's threads. Those of a second one would wait for each other.
        for command in (
            [*compiler, *_flags(), '-fopenmp', '-c', str(SOURCE), '-o', str(unlinked)],
            [*compiler, '-shared', str(unlinked), '-o', str(linked)],
        ):
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                errors='replace',
                timeout=300,
            )
        if cache is None:
            # Once loaded it needs its file no more.
            return Library(linked)
        return Library(store_library(linked, name, cache))


@contextlib.contextmanager
def _workshop() -> Iterator[tuple[Path, Path | None]]:
    """A folder to build in, and the cache if what is built can be kept there."""
    with contextlib.ExitStack() as stack:
        try:
            cache: Path | None = cache_folder()
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=cache))
        except OSError as error:
            _log.warning(
                'Winograd convolutions are compiled for this process alone: no cache can '
                'be kept (%s). XDG_CACHE_HOME may name a folder for it',
                error,
            )
            cache = None
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        yield Path(folder), cache


def _compiler() -> list[str]:
    return shlex.split(os.environ.get('CXX', '')) or ['g++']


def _flags() -> list[str]:
    """Return the compiler's flags; of two that disagree, the later counts."""
    # Not CXXFLAGS: conda's compilers set it to -march=nocona, which has no AVX.
    return [*FLAGS, *shlex.split(os.environ.get('WINOGRAD_CXXFLAGS', ''))]


def _machine() -> str:
    """The processor, on which ``-march=native`` depends, and the system's libraries."""
    system = ' '.join(platform.libc_ver())
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith(('flags', 'Features')):
                return f'{line} {system}'
    return f'{platform.processor()} {platform.machine()} {system}'
