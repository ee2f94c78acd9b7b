#!/usr/bin/env bash
# Trains with one process per GPU, on this machine or on NNODES machines.
#
# Ctrl-C, TERM, HUP and USR1 save a checkpoint first; the status is then 128 + number of the signal.
set -euo pipefail

if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    cat >&2 <<'USAGE'
usage: bash tools/dist_train.sh CONFIG GPUS [train.py options]

Environment:
  PYTHON       interpreter (default: .venv/bin/python of this repository, else python)
  PORT         of the rendezvous (default: any free one; on several machines 29500)
  NNODES, NODE_RANK, MASTER_ADDR
               number of machines, number of this one, address of number 0
USAGE
    exit 2
fi

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/launch_common.sh"
note_command "$0" "$@" -- PYTHON PORT NNODES NODE_RANK MASTER_ADDR OMP_NUM_THREADS

config=$1
gpus=$2
shift 2

meet_processes "$gpus"

# How long torchrun lets processes save after a signal, before it kills them.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

# torchrun knows no USR1, but passes on TERM.
run_with_signals INT=INT TERM=TERM HUP=HUP USR1=TERM -- \
    "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node="$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
if ((caught)); then status=$((status ? 128 + caught : 0)); fi
exit "$status"
