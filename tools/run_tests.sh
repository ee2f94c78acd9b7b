#!/usr/bin/env bash
# Runs the tests: makes .venv with the test packages if need be, then runs pytest.
#
#   bash tools/run_tests.sh [pytest options, paths from the repository's root]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh" tests
cd "$root"
exec "$python" -m pytest "$@"
