"""Marks that skip a test if the machine lacks what it needs."""

import shutil

import pytest

from repvgg_runtime.kernels import build

needs_compiler = pytest.mark.skipif(
    shutil.which(build._compiler()[0]) is None,
    reason='there is no C++ compiler (g++, or what CXX names)',
)
