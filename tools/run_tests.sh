#!/usr/bin/env bash
# Runs the tests on all cores; makes .venv with the test packages first, if need be.
#
#   bash tools/run_tests.sh [--quick] [pytest options, paths from the repository's root]
#
#   --quick             leave out the slow tests: those marked so, and those in tests/not_quick.txt
#   --numprocesses N    N processes instead of one per core (0: no processes of their own, as with
#                       --pdb or a single file)
#   --help              this text; .venv/bin/python -m pytest --help lists pytest's options
#
# A process computes on one core, unless OMP_NUM_THREADS says otherwise.
set -euo pipefail
for argument; do
    case $argument in
        -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    esac
done

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh" tests
cd "$root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# tests/conftest.py says how many processes auto is; of an option given twice, pytest takes the last.
processes=(--numprocesses auto --dist worksteal)
[[ " $* " != *[\ p=]no:xdist\ * ]] || processes=()
exec "$python" -m pytest "${processes[@]}" "$@"
