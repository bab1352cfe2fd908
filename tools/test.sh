#!/usr/bin/env bash
# Makes the environment if need be, then runs every gate and the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh requirements.txt tests/requirements.txt
install_beside tests/requirements_float8.txt .venv/float8 || echo "no torchao: its tests are skipped"

ruff format --check --quiet .
ruff check --quiet .
mypy
lint-imports
# Two processes of one thread each: the tests are many and small.
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 pytest -n "${TEST_PROCESSES:-$(nproc)}" --dist loadfile -m "not slow" "$@"
