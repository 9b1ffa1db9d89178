#!/usr/bin/env bash
# Start a tool with srun, a process a GPU; slurm_train.sh and slurm_test.sh call this.
# GPUS (default 8), GPUS_PER_NODE (default 8 or GPUS), CPUS_PER_TASK (default 5) and
# SRUN_ARGS say what to ask Slurm for; PYTHON the interpreter.
set -euo pipefail
tool=$1 partition=$2 job=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# shellcheck disable=SC2086  # SRUN_ARGS is a list of words
exec srun -p "$partition" --job-name="$job" --gres="gpu:$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$here/$tool" "$@" --launcher slurm
