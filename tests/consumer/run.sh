#!/usr/bin/env bash
# Installs the project into a scratch folder, builds the README's C++ example and a C program against it, and runs the
# example with the quickstart's teacher: all that a policy needs is linked.   usage: run.sh BUILD_DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
cmake --install "$1" --prefix "$scratch/prefix" >/dev/null
sed -n '/^```cpp/,/^```$/{/^```/d;p}' "$here/../../README.md" |
  sed "s|runs/l6/last|$here/../../configs/quickstart/teacher|" >"$scratch/example.cpp"
cmake -G Ninja -S "$here" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$scratch/prefix" \
  -DREADME_EXAMPLE="$scratch/example.cpp" >/dev/null
cmake --build "$scratch/build" >/dev/null
cmake --install "$scratch/build" --prefix "$scratch/app" >/dev/null  # it still has to find LibTorch then
"$scratch/app/bin/consumer" | tee "$scratch/out"
[ "$(wc -l <"$scratch/out")" -eq 7 ]  # LIBERO's action
"$scratch/prefix/bin/shallowpi-infer" --version
