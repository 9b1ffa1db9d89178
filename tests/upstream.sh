#!/usr/bin/env bash
# Run pytest, with the arguments given, on upstream mmsegmentation 1.2.2 in an environment
# of its own.
#
# mmcv has to be built from source with its ops, which mmseg imports: 10 to 15 minutes on
# 2 cores. torch 2.1.2 brings its CUDA libraries, some gigabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-upstream
if [ ! "$venv/.ready" -nt requirements/upstream.txt ]; then
    # The python3.10 of PATH may be a version manager's shim, which only reports an error.
    for python in ${UPSTREAM_PYTHON:-python3.10 \
            "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10*/bin/python \
            "$HOME"/.asdf/installs/python/3.10*/bin/python \
            "$HOME"/.local/share/mise/installs/python/3.10*/bin/python \
            "$HOME"/.local/share/uv/python/cpython-3.10*/bin/python}; do
        "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null && break
        python=
    done
    if [ -z "$python" ]; then
        echo "No Python 3.10 was found. Give the path of one in UPSTREAM_PYTHON." >&2
        exit 2
    fi
    "$python" -m venv "$venv"
    pip="$venv/bin/python -m pip install --quiet --constraint requirements/upstream.txt"
    $pip 'setuptools<70' wheel ninja psutil packaging numpy torch
    # --no-build-isolation: the ops are compiled against the torch that is installed.
    MMCV_WITH_OPS=1 FORCE_CUDA=0 $pip --no-build-isolation --no-deps mmcv
    $pip mmsegmentation mmengine ftfy regex opencv-python pytest safetensors \
        cityscapesscripts tensorboard onnx onnxruntime onnxscript openvino nncf
    # Nothing of upstream is overwritten: that is what --no-deps is for.
    $pip --no-deps --no-build-isolation --editable .
    touch "$venv/.ready"
fi
exec "$venv/bin/pytest" "$@"
