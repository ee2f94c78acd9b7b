# What dist_train.sh, dist_sort.sh and slurm_train.sh share. To be sourced, with $tools set.

python=$tools/../.venv/bin/python
[[ -x $python ]] || python=python
python=${PYTHON:-$python}

# So that a clone works without being installed.
export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}

# note_command SCRIPT ARGUMENTS... -- VARIABLES...: what was typed, for train.py to say how to go on.
note_command() {
    local words=(bash) settings=()
    while [[ $1 != -- ]]; do
        words+=("$1")
        shift
    done
    for name in "${@:2}"; do
        if [[ -n ${!name:-} ]]; then settings+=("$name=${!name}"); fi
    done
    if ((${#settings[@]})); then words=(env "${settings[@]}" "${words[@]}"); fi
    MMCOKE_COMMAND=$(printf '%q ' "${words[@]}")
    export MMCOKE_COMMAND
}

# run_with_signals CAUGHT=SENT... -- COMMAND...: run it and pass signals on. Sets $status to its
# status and $caught to the number of the first signal, or 0.
run_with_signals() {
    caught=0 status=0
    while [[ $1 != -- ]]; do
        # shellcheck disable=SC2064
        trap "pass_on ${1%=*} ${1#*=}" "${1%=*}"
        shift
    done
    shift
    # A process group of its own: the terminal sends Ctrl-C to this script alone, which passes it on.
    set -m
    "$@" &
    child=$!
    set +m
    while true; do
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
}

pass_on() {
    ((caught)) || caught=$(kill -l "$1")
    kill -s "$2" "$child" 2>/dev/null || true
}

# meet_processes NUMBER: for torchrun with so many processes on this machine. Sets $rendezvous to its
# options, and shares the cores out.
meet_processes() {
    local cores nnodes=${NNODES:-1}
    # torchrun's own default is 1, which leaves most cores idle in the CPU parts.
    cores=$(nproc)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > $1 ? cores / $1 : 1))}
    if [[ $nnodes == 1 && -z ${PORT:-} ]]; then
        rendezvous=(--standalone)
    else
        if [[ $nnodes != 1 ]]; then : "${MASTER_ADDR:?is needed when NNODES is not 1}"; fi
        rendezvous=(--nnodes="$nnodes" --node-rank="${NODE_RANK:-0}"
            --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}")
    fi
}
