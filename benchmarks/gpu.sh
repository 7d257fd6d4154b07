#!/usr/bin/env bash
# Measures the inference engine on this machine's GPU: builds, passes the tests, then writes tables, JSON and
# plots for pi0 and pi0.5 with 18, 9, 6 and 4 layers, by the eager engine, by CUDA graphs, and by CUDA graphs of
# LibTorch's operators alone, and for pi0.5 with fewer vision tokens, by the eager engine. Random weights: no checkpoint
# is needed. Last it compares each engine's bfloat16 actions with float32's (shallowpi-infer gate).
#   benchmarks/gpu.sh [OUT]        OUT: folder for the results (default: gpu_results)
# DEVICE=cpu SIZE=tiny SKIP_BUILD=1 BUILD_DIR=build tries the script itself where there is no GPU.
set -euo pipefail
out=$(realpath -m "${1:-gpu_results}")
cd "$(dirname "$0")/.."
device=${DEVICE:-cuda}
build=$(realpath -m "${BUILD_DIR:-build}")
mkdir -p "$out"
engines=(eager graph)
[[ $device == cpu ]] && engines=(eager)
size=${SIZE:-full}
vision_tokens=64,128,256
[[ $size == tiny ]] && vision_tokens=4,8,16
variants=("${engines[@]}")
[[ $device == cpu ]] || variants+=("graph --no-kernels")

if [[ -z ${SKIP_BUILD:-} ]]; then
  scripts/build.sh --cuda --tests
  "$build/bin/model_tests" --gtest_brief=1 --gtest_filter='*Fused*'
  "$build/bin/runtime_tests" --gtest_brief=1 --gtest_filter='*GraphEngineTest.Captured*'
  "$build/bin/distill_tests" --gtest_brief=1 --gtest_filter='Trainer.SeveralGpus*'
  CUDA_VISIBLE_DEVICES= ctest --test-dir "$build" --output-on-failure --no-tests=error  # the others' bounds are a CPU's
fi

failed=0  # one measurement that fails does not cost the others
# measure NAME MODEL OPTIONS...: writes NAME.txt, NAME.json and NAME.png.
measure() {
  local name=$1 model=$2 horizon=50
  [[ $model == pi05 ]] && horizon=10
  "$build/bin/shallowpi-infer" bench --random-weights --model "$model" --size "$size" --device "$device" \
    --dtype bfloat16 --horizon "$horizon" --iterations "${ITERATIONS:-100}" --warmup 3 "${@:3}" \
    --json "$out/$name.json" | tee "$out/$name.txt" || { failed=1; return 0; }
  if python3 -c 'import matplotlib' 2>/dev/null; then
    scripts/plot_bench.py "$out/$name.json" "$out/$name.png"
  else
    echo "no plot: python3 has no matplotlib" >&2
  fi
}

for model in pi0 pi05; do
  for variant in "${variants[@]}"; do
    # shellcheck disable=SC2086  # the variant is an engine and options
    measure "$model-${variant// --/-}" "$model" --engine $variant --compare --sweep layers=4,6,9,18
  done
done
measure pi05-vision-tokens pi05 --sweep layers=6,18 --sweep "vision-tokens=$vision_tokens"
for engine in "${engines[@]}"; do  # its verdict is a result, as good as a time: that it has one is what counts here
  rm -f "$out/gate-$engine.json"
  "$build/bin/shallowpi-infer" gate --checkpoint configs/quickstart/teacher --data configs/quickstart/*.hdf5 \
    --device "$device" --engine "$engine" --dtype bfloat16 --frames "${FRAMES:-64}" --json "$out/gate-$engine.json" || true
  [[ -s $out/gate-$engine.json ]] || failed=1
done
exit $failed
