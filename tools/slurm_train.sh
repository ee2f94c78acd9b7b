#!/usr/bin/env bash
# Trains under Slurm, with one task per GPU.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    cat >&2 <<'EOF'
usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [train.py options]

Environment:
  PYTHON          interpreter (default: .venv/bin/python of this repository, else python)
  GPUS            in all (default: 8)
  GPUS_PER_NODE   (default: 8, or GPUS if that is less)
  CPUS_PER_TASK   (default: 5)
  SRUN_ARGS       more options of srun, separated by spaces
EOF
    exit 2
fi
partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$tools/../.venv/bin/python
[[ -x $python ]] || python=python
python=${PYTHON:-$python}

# So that a clone works without being installed.
export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
cpus_per_task=${CPUS_PER_TASK:-5}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus_per_task}
read -ra srun_args <<<"${SRUN_ARGS:-}"

exec srun --partition="$partition" --job-name="$job_name" \
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --gres="gpu:$gpus_per_node" \
    --cpus-per-task="$cpus_per_task" --kill-on-bad-exit=1 "${srun_args[@]}" \
    "$python" -u "$tools/train.py" "$config" --work-dir "$work_dir" --launcher slurm "$@"
