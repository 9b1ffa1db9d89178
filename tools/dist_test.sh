#!/usr/bin/env bash
# Test on several processes: bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES_PER_NODE [test.py's arguments]
[ $# -ge 3 ] || { echo "usage: bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES_PER_NODE [test.py's arguments]" >&2; exit 2; }
config=$1 checkpoint=$2 processes=$3
shift 3
exec bash "$(dirname "$0")/dist_run.sh" test.py "$config" "$processes" "$checkpoint" "$@"
