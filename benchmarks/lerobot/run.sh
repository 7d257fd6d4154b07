#!/usr/bin/env bash
# Builds the benchmark, makes the peer's environment, and compares.   usage: benchmarks/lerobot/run.sh [side_by_side.py options]
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
cd "$project"
need_libtorch cpu
cmake -S . -B build/benchmarks -DCMAKE_BUILD_TYPE=Release -DLIBTORCH_ROOT="$LIBTORCH_ROOT" \
  -DSHALLOWPI_BENCHMARKS=ON -DSHALLOWPI_TESTS=OFF -G Ninja >/dev/null
cmake --build build/benchmarks --target policy_benchmark
python=$(scripts/lerobot_env.sh)
exec "$python" benchmarks/lerobot/side_by_side.py build/benchmarks/bin/policy_benchmark "$@"
