#!/usr/bin/env bash
# Start a tool with torchrun; dist_train.sh and dist_test.sh call this.
#
#   bash tools/dist_run.sh TOOL CONFIG PROCESSES_PER_NODE [ARGUMENTS]
#
# On one node, torchrun finds a free port unless PORT names one.
# On several, run it on each node with NNODES, NODE_RANK and MASTER_ADDR set (and PORT, default
# 29500).
# MAX_RESTARTS, default 0, is how often all processes are restarted after one has failed. A
# training then needs --resume, which continues from its last checkpoint.
# PYTHON is the interpreter, default python.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: bash tools/dist_train.sh CONFIG PROCESSES_PER_NODE [ARGUMENTS]" >&2
    exit 2
fi
tool=$1 config=$2 processes=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
nodes=${NNODES:-1}
rank=${NODE_RANK:-0}
port=${PORT:-29500}
restarts=${MAX_RESTARTS:-0}

if ! [[ $processes =~ ^[1-9][0-9]*$ ]]; then
    echo "error: the number of processes per node must be 1 or more, but got '$processes'" >&2
    exit 2
fi
if ! [[ $restarts =~ ^[0-9]+$ ]]; then
    echo "error: MAX_RESTARTS must be 0 or more, but got '$restarts'" >&2
    exit 2
fi
if [ "$restarts" -gt 0 ] && [ "$tool" = train.py ] && [[ " $* " != *" --resume "* ]]; then
    echo "error: MAX_RESTARTS=$restarts needs --resume, or each restart would begin anew" >&2
    exit 2
fi
if [ "$nodes" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
    echo "error: with NNODES=$nodes, set MASTER_ADDR to the address of node 0, on every node" >&2
    exit 2
fi

if [ "$nodes" -eq 1 ] && [ -z "${PORT:-}" ]; then
    rendezvous=(--standalone)
else
    # The node that serves the port checks that it is free: a process that joined the
    # rendezvous of another run would hang or train with it.
    if [ "$rank" -eq 0 ] && ! "$python" -c "
import socket, sys
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', int(sys.argv[1])))" "$port" 2>/dev/null; then
        echo "error: port $port is in use. Set PORT to a free one, the same on every node" \
            "(on one node, leave PORT unset and a free one is found)" >&2
        exit 2
    fi
    address=${MASTER_ADDR:-127.0.0.1}
    rendezvous=(--node_rank "$rank" --master_addr "$address" --master_port "$port")
    if [ "$restarts" -gt 0 ]; then
        rendezvous=(--rdzv_backend c10d --rdzv_endpoint "$address:$port" --rdzv_id "$port")
    fi
fi
if [ "$restarts" -gt 0 ]; then
    # Otherwise a restart finds the addresses of the previous processes and fails
    # (https://github.com/pytorch/pytorch/issues/135712).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
fi
exec "$python" -m torch.distributed.run --nnodes "$nodes" --nproc_per_node "$processes" \
    --max_restarts "$restarts" \
    "${rendezvous[@]}" "$here/$tool" "$config" --launcher pytorch "$@"
