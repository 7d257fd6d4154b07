#!/usr/bin/env bash
# What does not fit in scripts/test.sh; run it before a release (all parts but autobahn where none is named).
#   usage: scripts/test_long.sh [--no-install] [PART...]
#   kills        1000 kill -9 during training                                    about 30 min
#   lerobot      exports loaded and run in the real LeRobot 0.6.1                 about 3 min beyond 7 GB of downloads
#   full-size    3.3 B parameters: load, run, make a student (24 GiB, 13 GB disk) about 15 min
#   serve        64 clients x 1000 requests, 200 half-open connections             about 5 min
#   autobahn     websocket conformance; needs a python2.7 (PYTHON2=...)            about 5 min
#   simulators   kill -9 of LIBERO simulators during an evaluation of 100 episodes   about 15 min
#   damaged-hdf5 10,000 damaged demonstration files                               about 10 min
#   fuzz         10 million inputs for each parser of bytes from outside (clang)   hours; FUZZ_RUNS=100000 for less
#   aarch64      cross build and unit tests under qemu (Debian 12)                 about 60 min
#   sanitizers   all C++ tests with address and undefined-behaviour sanitizers, and
#                those of the threads with the thread sanitizer (clang)           about 60 min
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$project"
options=() parts=()
for argument in "$@"; do
  case $argument in
    --no-install) install=0; options+=("$argument") ;;
    kills | lerobot | full-size | serve | autobahn | simulators | damaged-hdf5 | fuzz | aarch64 | sanitizers) parts+=("$argument") ;;
    -h | --help) usage ;;
    *) die "unknown argument $argument (see --help)" ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(kills lerobot full-size serve simulators damaged-hdf5 fuzz aarch64 sanitizers)
./scripts/build.sh --tests --cpu "${options[@]}"
python_env testenv "$project/tests/requirements.txt"

# sanitized PRESET FOLDER PROGRAM...: builds the test programs with a sanitizer and runs them; reports are failures.
# LeakSanitizer stays off: LibTorch keeps most of what it allocates until the process ends.
sanitized() {
  local preset=$1 folder=$2 program status=0; shift 2
  need_packages "libclang-rt-${clang#clang-}-dev" "llvm-${clang#clang-}"
  need_compiler
  need_libtorch cpu
  cmake --preset "$preset" -DSHALLOWPI_TEST_PYTHON= >/dev/null
  cmake --build "$folder" --target "$@"
  # Also from child processes, whose stderr is closed.
  local reports; reports=$(mktemp -d)
  export ASAN_OPTIONS="detect_leaks=0:log_path=$reports/asan" UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan"
  export TSAN_OPTIONS="suppressions=$project/tests/tsan.supp:log_path=$reports/tsan"
  for program in "$@"; do
    OMP_NUM_THREADS=1 "$folder/bin/$program" --gtest_brief=1 --gtest_filter="${filter:-*}" || status=1
  done
  rmdir "$reports" 2>/dev/null || { cat "$reports"/*; status=1; }
  [ $status -eq 0 ] || die "tests failed, or the sanitizers found something: see above"
}

for part in "${parts[@]}"; do
  say "$part"
  case $part in
    kills) OMP_NUM_THREADS=1 python3 tests/integration/kill_resume.py build/bin/shallowpi-distill --kills 1000 ;;
    lerobot)
      lerobot_python=$(./scripts/lerobot_env.sh "${options[@]}" | tail -n 1)
      HF_HUB_OFFLINE=1 "$lerobot_python" tests/integration/lerobot_export.py build/bin tests/data/parity
      ;;
    full-size)
      cmake --build --preset release --target full_size_check
      scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
      for kind in pi0 pi05; do build/bin/full_size_check $kind "$scratch"; rm -rf "${scratch:?}"/*; done
      ;;
    serve) "$python_env_bin/python" tests/integration/serve_load.py build/bin/fake_policy_server ;;
    autobahn)
      "$python_env_bin/python" tests/integration/autobahn.py build/bin/fake_policy_server "${PYTHON2:-python2.7}"
      ;;
    simulators)
      ./scripts/setup_libero.sh "${options[@]}" >/dev/null
      python3 tests/integration/libero_kills.py build/bin/shallowpi-eval --trials 50 --kills 20
      ;;
    damaged-hdf5) SHALLOWPI_HDF5_MUTATIONS=2500 build/bin/data_tests --gtest_filter='Hdf5Mutations.*' ;;
    fuzz)
      tests/fuzz/coverage.sh
      # Two to three times as fast; the tests' short runs look for uses of dead stack frames too.
      export ASAN_OPTIONS=detect_stack_use_after_return=0:malloc_context_size=4
      for target in tests/fuzz/corpus/*; do basename "$target"; done |
        xargs -P "$(nproc)" -I TARGET tests/fuzz/run.sh build/bin/TARGET_fuzz -runs="${FUZZ_RUNS:-10000000}"
      ;;
    aarch64) ./scripts/cross_aarch64.sh "${options[@]}" ;;
    sanitizers)
      sanitized asan-ubsan build-asan base_tests data_tests model_tests distill_tests runtime_tests eval_tests
      # What has threads of its own: the loader, a robot's images, the background task and the trainer that uses it; the
      # server, its queue and its client, controllers.
      filter='*Loader*:Image.SeveralAtOnce*:*Thread*:*Background*:*Trainer*:*Resume*:Queue*:PolicyService*:PolicyClient*:*Controller*:RunnerInference*' \
        sanitized tsan build-tsan base_tests data_tests distill_tests runtime_tests
      ;;
  esac
done
say "passed: ${parts[*]}"
