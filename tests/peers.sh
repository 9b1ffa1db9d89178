#!/usr/bin/env bash
# Prove the conversions against the real classes of timm and mmpretrain, in an
# environment of its own: both need torchvision, and that one torch. It brings its CUDA
# libraries, 5.5 GB in all; the largest net takes 4 GB of memory.
#
# --record writes tests/checkpoints/recorded anew: the keys, shapes and a few outputs
# that the ordinary tests check against.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-peers
if [ ! -e "$venv/.ready" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    pip="$venv/bin/python -m pip install --quiet"
    $pip --requirement requirements/peers.txt
    # Its dependencies are those pinned above.
    $pip --no-deps --editable .
    touch "$venv/.ready"
fi
exec "$venv/bin/pytest" tests/peers "$@"
