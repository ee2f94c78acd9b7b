#!/usr/bin/env bash
# From a fresh clone to the first result: makes .venv if need be, then runs quickstart.py.
#
#   bash tools/quickstart.sh [quickstart.py options; --help lists them]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh" ''
exec "$python" "$root/tools/quickstart.py" "$@"
