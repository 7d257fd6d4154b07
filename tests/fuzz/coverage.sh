#!/usr/bin/env bash
# Prints which share of each parser's lines the committed corpus reaches, and fails below 90 %; needs clang and llvm.
#   usage: tests/fuzz/coverage.sh [show]      show: also prints the lines that are not reached
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
cd "$project"
need_packages llvm-19 libclang-rt-19-dev
need_compiler
need_libtorch cpu
folder=build-coverage
cmake --preset release -B $folder -DSHALLOWPI_TESTS=ON -DSHALLOWPI_TEST_PYTHON= \
  -DCMAKE_CXX_FLAGS="-fprofile-instr-generate -fcoverage-mapping" >/dev/null
cmake --build $folder --target fuzz_targets

declare -A parsers=(
  [observation]="runtime/message.cpp runtime/observation_message.cpp"
  [safetensors_header]="base/safetensors_header.cpp"
  [norm_stats]="base/norm_stats.cpp base/json.cpp"
  [tokenizer]="data/sentencepiece_check.cpp data/tokenizer.cpp data/prompt.cpp"
  [config]="base/yaml.cpp base/config.cpp distill/config_table.cpp distill/config_validate.cpp"
)
status=0
for target in observation safetensors_header norm_stats tokenizer config; do
  program=$folder/bin/${target}_fuzz
  profile=$folder/$target
  LLVM_PROFILE_FILE=$profile.profraw tests/fuzz/run.sh $program -runs=0 2>$profile.log || { cat $profile.log; exit 1; }
  llvm-profdata-19 merge -o $profile.profdata $profile.profraw
  for file in ${parsers[$target]}; do
    share=$(llvm-cov-19 export -summary-only -instr-profile=$profile.profdata $program src/"$file" |
      python3 -c 'import json, sys; print("%.1f" % json.load(sys.stdin)["data"][0]["totals"]["lines"]["percent"])')
    printf '%-20s %-34s %5s %%\n' $target "src/$file" "$share"
    [ "${share%.*}" -ge 90 ] || status=1
    if [ "${1:-}" = show ]; then
      llvm-cov-19 show -instr-profile=$profile.profdata $program src/"$file" | grep -E '^ +[0-9]+\| +0\|' || true
    fi
  done
done
[ $status -eq 0 ] || die "the corpus reaches less than 90 % of a parser"
