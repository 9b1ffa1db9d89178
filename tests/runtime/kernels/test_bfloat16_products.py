"""Matrix units compute what their emulation computes, to the last bit."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from repvgg_runtime.kernels import build
from tests.needs import needs_compiler

SOURCE = Path(__file__).with_name('products.cpp')
pytestmark = needs_compiler


def compiled(folder, *flags):
    path = folder / 'products.so'
    include = f'-I{build.SOURCE.parent}'
    command = [*build._compiler(), *build._flags(), *flags, include, '-shared']
    subprocess.run([*command, str(SOURCE), '-o', str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.multiply.argtypes = (
        [ctypes.c_int] + [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 3 + [ctypes.c_int]
    )
    return library


def multiply(library, parts, a, b, before):
    """Return ``before + a @ b`` of operands in one row of numbers, as they are stored."""
    c = before.copy()
    rows, lanes = c.shape
    depth = a.size // rows // parts
    pointers = (each.ctypes.data for each in (a, b, c))
    library.multiply(parts, rows, depth, lanes, *pointers, 1)
    return c


@pytest.mark.parametrize('parts', [1, 2])
def test_units_and_emulation_agree_bit_by_bit(parts, tmp_path):
    if not (build.library() and build.library().winograd_has_matrix_units()):
        pytest.skip('this processor, or its system, has no AMX for bfloat16')
    (tmp_path / 'emulated').mkdir()
    units = compiled(tmp_path)
    assert units.available()
    emulated = compiled(tmp_path / 'emulated', '-DWINOGRAD_EMULATE_TILES')
    random = np.random.default_rng(0)
    for rows, depth, lanes in [(16, 32, 16), (48, 96, 80), (64, 128, 64)]:
        a, b = (
            random.standard_normal(size * depth * parts, np.float32).view(np.uint32) >> 16
            for size in (rows, lanes)
        )
        a, b = a.astype(np.uint16), b.astype(np.uint16)
        # Zero, and numbers too small for a full mantissa.
        a[:3], b[5:9] = (0, 1, 0x8001), 0x7F
        before = random.standard_normal((rows, lanes), np.float32)
        got = multiply(units, parts, a, b, before)
        assert np.array_equal(got, multiply(emulated, parts, a, b, before))
        assert not np.array_equal(got, before)
