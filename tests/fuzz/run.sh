#!/usr/bin/env bash
# Runs a fuzz target on its corpus and on what the fuzzer makes of it.   usage: run.sh PROGRAM [LIBFUZZER_OPTION...]
# Limits per input: 5 s (sanitizers and a busy machine), 2 GiB in all. A finding's input is kept beside PROGRAM.
set -euo pipefail
program=$(realpath "$1"); shift
target=$(basename "$program" _fuzz)
corpus=$(dirname "$(realpath "$0")")/corpus/$target
# In memory where possible: some targets write their input to a file.
scratch=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/new"
# LibTorch keeps what it allocates until the process ends; leaks of a single input are found all the same.
TMPDIR=$scratch "$program" -seed=1 -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
  -artifact_prefix="$(dirname "$program")/$target-" "$@" "$scratch/new" "$corpus"
