#!/usr/bin/env bash
# Run the tests on upstream mmsegmentation 1.2.2, in an environment of its own.
#
# mmcv has to be built from source with its ops, which mmseg imports: 10 to 15 minutes on
# 2 cores. torch 2.1.2 brings its CUDA libraries, some gigabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.10}
venv=.venv-upstream
if [ ! -e "$venv/.ready" ]; then
    "$python" -m venv "$venv"
    pip="$venv/bin/python -m pip install --quiet --constraint requirements/upstream.txt"
    $pip 'setuptools<70' wheel ninja psutil packaging numpy torch
    # --no-build-isolation: the ops are compiled against the torch that is installed.
    MMCV_WITH_OPS=1 FORCE_CUDA=0 $pip --no-build-isolation --no-deps mmcv
    $pip mmsegmentation mmengine ftfy regex opencv-python pytest safetensors
    # Nothing of upstream is overwritten: that is what --no-deps is for.
    $pip --no-deps --no-build-isolation --editable .
    touch "$venv/.ready"
fi
exec "$venv/bin/pytest" "${@:2}"
