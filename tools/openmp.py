"""Limit how long waiting threads spin. Import this before torch, which loads OpenMP.

Threads of GNU OpenMP, which PyTorch takes on Linux, spin for milliseconds after each
parallel part. If another process has taken a core meanwhile, the others spin until its
thread comes back. docs/results.md, "Sharing cores", has the measurements.
"""

import os

if 'OMP_WAIT_POLICY' not in os.environ:
    os.environ.setdefault('GOMP_SPINCOUNT', '5000')
