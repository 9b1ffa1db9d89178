#!/usr/bin/env bash
# Test under Slurm: GPUS=8 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [test.py's arguments]
[ $# -ge 4 ] || { echo "usage: GPUS=8 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [test.py's arguments]" >&2; exit 2; }
exec bash "$(dirname "$0")/slurm_run.sh" test.py "$@"
