#!/usr/bin/env bash
# Sorts a folder of images with one process per GPU, or per share of the cores, on this machine or
# on NNODES machines that see the same folders.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    cat >&2 <<'USAGE'
usage: bash tools/dist_sort.sh PROCESSES FOLDER --out DIR [mmcoke sort options]

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

processes=$1
shift

meet_processes "$processes"

# What was made is on the disk, so a signal may end it at once.
run_with_signals INT=INT TERM=TERM HUP=HUP USR1=TERM -- \
    "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node="$processes" \
    -m mmcoke sort "$@" --launcher pytorch
if ((caught)); then status=$((status ? 128 + caught : 0)); fi
exit "$status"
