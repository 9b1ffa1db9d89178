"""Prepare the process of a tool. Import this before torch and mmseg."""

import os
import sys
from pathlib import Path

# Threads of GNU OpenMP, which PyTorch uses on Linux, spin for milliseconds after each
# parallel section. If another process takes one of the cores, the threads on all others
# spin until it is free again. docs/results.md, "Sharing cores", has the measurements.
if 'OMP_WAIT_POLICY' not in os.environ:
    os.environ.setdefault('GOMP_SPINCOUNT', '5000')

# Some tools import `benchmarks` and `demo`, which lie beside tools/.
sys.path.insert(0, str(Path(__file__).parents[1]))

import mmseg_repvgg  # noqa: E402, F401
