#!/usr/bin/env bash
# Train on several processes: bash tools/dist_train.sh CONFIG PROCESSES_PER_NODE [train.py's arguments]
exec bash "$(dirname "$0")/dist_run.sh" train.py "$@"
