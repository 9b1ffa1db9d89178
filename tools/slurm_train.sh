#!/usr/bin/env bash
# Train under Slurm: GPUS=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py's arguments]
[ $# -ge 3 ] || { echo "usage: GPUS=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py's arguments]" >&2; exit 2; }
exec bash "$(dirname "$0")/slurm_run.sh" train.py "$@"
