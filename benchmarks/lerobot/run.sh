#!/usr/bin/env bash
# Builds the benchmark for the CPU (in build/, where a build for a GPU has to be made again afterwards), makes the peer's environment,
# and compares.   usage: benchmarks/lerobot/run.sh [side_by_side.py options]
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
cd "$project"
scripts/build.sh --benchmarks --cpu
python=$(scripts/lerobot_env.sh)
exec "$python" benchmarks/lerobot/side_by_side.py build/bin/policy_benchmark "$@"
