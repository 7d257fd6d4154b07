#!/usr/bin/env bash
# Installs the project into a scratch folder, builds the consumer against it and runs it.   usage: run.sh BUILD_DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
cmake --install "$1" --prefix "$scratch/prefix" >/dev/null
cmake -G Ninja -S "$here" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$scratch/prefix" >/dev/null
cmake --build "$scratch/build" >/dev/null
"$scratch/build/consumer" | tee "$scratch/out"
grep -qx '0 3 6 9 12 15' "$scratch/out"
"$scratch/prefix/bin/shallowpi-infer" --version
