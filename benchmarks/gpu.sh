#!/usr/bin/env bash
# Measures the inference engine on this machine's GPU: builds, passes the tests, then writes tables, JSON and
# plots for pi0 and pi0.5 with 18, 9, 6 and 4 layers. Random weights: no checkpoint is needed.
#   benchmarks/gpu.sh [OUT]        OUT: folder for the results (default: gpu_results)
# DEVICE=cpu SIZE=tiny SKIP_BUILD=1 tries the script itself where there is no GPU.
set -euo pipefail
out=$(realpath -m "${1:-gpu_results}")
cd "$(dirname "$0")/.."
device=${DEVICE:-cuda}
mkdir -p "$out"

if [[ -z ${SKIP_BUILD:-} ]]; then
  scripts/build.sh --cuda
  ctest --test-dir build --output-on-failure
fi
for model in pi0 pi05; do
  horizon=50
  [[ $model == pi05 ]] && horizon=10
  build/bin/shallowpi-infer bench --random-weights --model "$model" --size "${SIZE:-full}" --device "$device" \
    --dtype bfloat16 --horizon "$horizon" --sweep layers=4,6,9,18 --iterations "${ITERATIONS:-100}" --warmup 10 \
    --compare --json "$out/$model.json" | tee "$out/$model.txt"
  if python3 -c 'import matplotlib' 2>/dev/null; then
    scripts/plot_bench.py "$out/$model.json" "$out/$model.png"
  else
    echo "no plot: python3 has no matplotlib" >&2
  fi
done
