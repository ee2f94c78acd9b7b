#!/usr/bin/env bash
# Trains under Slurm, with one task per GPU.
#
# With REQUEUE=1 it submits itself as a batch job, which saves a checkpoint before its time is up or
# when it is preempted, goes back to the queue, and goes on from there when it is started again.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    cat >&2 <<'USAGE'
usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [train.py options]

Environment:
  PYTHON          interpreter (default: .venv/bin/python of this repository, else python)
  GPUS            in all (default: 8)
  GPUS_PER_NODE   (default: 8, or GPUS if that is less)
  CPUS_PER_TASK   (default: 5)
  SRUN_ARGS       more options of srun, or of sbatch with REQUEUE, separated by spaces
  REQUEUE         1: a batch job that is requeued until training is complete
  NOTICE          seconds before the end of a batch job's time to save at (default: 300)
USAGE
    exit 2
fi

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/launch_common.sh"
variables=(PYTHON GPUS GPUS_PER_NODE CPUS_PER_TASK SRUN_ARGS REQUEUE NOTICE OMP_NUM_THREADS)
[[ -n ${MMCOKE_BATCH:-} ]] || note_command "$0" "$@" -- "${variables[@]}"

partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
cpus_per_task=${CPUS_PER_TASK:-5}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus_per_task}
read -ra srun_args <<<"${SRUN_ARGS:-}"
resources=(--partition="$partition" --job-name="$job_name"
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --gres="gpu:$gpus_per_node"
    --cpus-per-task="$cpus_per_task" "${srun_args[@]}")

if [[ ${REQUEUE:-} == 1 && -z ${MMCOKE_BATCH:-} ]]; then
    mkdir -p "$work_dir"
    export MMCOKE_BATCH=1
    command=(exec bash "$tools/slurm_train.sh" "$partition" "$job_name" "$config" "$work_dir" "$@")
    exec sbatch --requeue --open-mode=append --output="$work_dir/slurm-%j.out" \
        --signal="B:USR1@${NOTICE:-300}" --export=ALL "${resources[@]}" \
        --wrap="$(printf '%q ' "${command[@]}")"
fi

train=("$python" -u "$tools/train.py" "$config" --work-dir "$work_dir" --launcher slurm "$@")
if [[ -z ${MMCOKE_BATCH:-} ]]; then
    exec srun "${resources[@]}" --kill-on-bad-exit=1 "${train[@]}"
fi

# In the batch job. A job that was started again goes on from its last checkpoint, if there is one.
if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ -s $work_dir/last_checkpoint ]]; then
    train+=(--resume)
fi
# srun passes USR1 and TERM on to all tasks. It has the resources of the job.
run_with_signals USR1=USR1 TERM=TERM -- srun --kill-on-bad-exit=1 "${train[@]}"
if ((caught && status == 128 + $(kill -l USR1))); then
    echo "Saved; job $SLURM_JOB_ID goes back to the queue." >&2
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
