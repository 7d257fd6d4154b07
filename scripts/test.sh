#!/usr/bin/env bash
# Builds everything and runs all tests; at most 40 minutes on 2 cores.   usage: scripts/test.sh [--no-install]
#   budget:  downloads 3 min | build 15 min | tests 13 min | simulator 4 min | quickstart 5 min
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$project"
read_install_option "$@"
started=$SECONDS
./scripts/build.sh --tests --cpu "$@"
built=$SECONDS

say "tests"
export OMP_NUM_THREADS=1
ctest --test-dir build --output-on-failure -j "$(nproc)"
tested=$SECONDS

say "simulator"
simulator_python=$(./scripts/setup_libero.sh "$@")
python3 tests/integration/libero_rollout.py build/bin/shallowpi-eval
"$simulator_python" tests/integration/collect_demos_test.py
simulated=$SECONDS

say "quickstart"
unset OMP_NUM_THREADS
./scripts/quickstart.sh --cpu "$@"
python3 tests/integration/check_quickstart.py runs/quickstart/report.json

say "passed: build $((built - started)) s, tests $((tested - built)) s, simulator $((simulated - tested)) s, quickstart $((SECONDS - simulated)) s"
