"""winograd.cpp by a program of its own, without Python: here, and on an emulated Arm."""

import shutil
import subprocess
from pathlib import Path

import pytest

from repvgg_runtime.kernels import build as native
from tests.needs import needs_compiler

DRIVER = Path(__file__).with_name('driver.cpp')
ARM_COMPILER, EMULATOR = 'aarch64-linux-gnu-g++', 'qemu-aarch64'


def build(compiler, flags, path):
    sources = (str(native.SOURCE), str(DRIVER))
    command = [*compiler, *flags, '-fopenmp', *sources, '-o', str(path)]
    subprocess.run(command, check=True)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith('136 cases, ')


@pytest.mark.isa
@needs_compiler
def test_here_it_computes_a_convolution(tmp_path):
    build(native._compiler(), native._flags(), tmp_path / 'driver')
    run(tmp_path / 'driver')


@pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which(EMULATOR)),
    reason='needs the packages g++-aarch64-linux-gnu and qemu-user',
)
def test_on_64_bit_arm_it_computes_a_convolution(tmp_path):
    flags = [flag for flag in native.FLAGS if flag != '-march=native']
    # Static, or the emulator would have to be told where Arm's libraries are.
    build([ARM_COMPILER], [*flags, '-static'], tmp_path / 'driver')
    run(EMULATOR, tmp_path / 'driver')
