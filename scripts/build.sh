#!/usr/bin/env bash
# Installs what is missing and builds.   usage: scripts/build.sh [--tests] [--benchmarks] [--cuda|--cpu] [--no-install]
#   --tests, --benchmarks   build those too, --tests both (default: the three programs only)
#   --cuda, --cpu           which LibTorch; default: CUDA where there are an NVIDIA driver and nvcc of CUDA 13 (any nvcc
#                           with LIBTORCH_ROOT)
#   --no-install            install nothing; only say what is missing
# LIBTORCH_ROOT=DIR/torch uses that LibTorch (2.6 or newer) instead of downloading one.
# CXX=g++ chooses the compiler of a new build folder (default: clang-19 where it is packaged, which halves the time; else g++).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
tests=0 benchmarks=0 variant=
while [ $# -gt 0 ]; do
  case $1 in
    --tests) tests=1 benchmarks=1 ;;  # so that the benchmarks always compile
    --benchmarks) benchmarks=1 ;;
    --cuda) variant=cuda ;;
    --cpu) variant=cpu ;;
    --no-install) install=0 ;;
    -h | --help) usage ;;
    *) die "unknown option $1 (see --help)" ;;
  esac
  shift
done

if [ -z "$variant" ]; then
  variant=cpu
  if command -v nvidia-smi >/dev/null; then
    # The LibTorch that is downloaded is built for CUDA 13; one of the user's own fits the nvcc at hand.
    if command -v nvcc >/dev/null && { [ -n "${LIBTORCH_ROOT:-}" ] || nvcc --version | grep -q 'release 1[3-9]'; }; then
      variant=cuda
    else
      say "no nvcc of CUDA 13: building for the CPU, although there is an NVIDIA driver. For its GPU install the CUDA
   toolkit 13 first, or give a LibTorch of your CUDA: LIBTORCH_ROOT=DIR/torch scripts/build.sh --cuda"
    fi
  fi
fi

packages=$build_packages
targets=(shallowpi-distill shallowpi-eval shallowpi-infer)
options=()
if [ $tests -eq 1 ]; then
  packages="$packages $test_packages"
  targets=(all)
  options+=(-DSHALLOWPI_TESTS=ON)
fi
if [ $benchmarks -eq 1 ]; then
  targets=(all)
  options+=(-DSHALLOWPI_BENCHMARKS=ON)
fi
need_packages $packages
need_compiler
# The fuzz targets' sanitizers; without them (g++) the targets only replay their corpus.
if [ $tests -eq 1 ] && [ "${CC:-}" = "$clang" ]; then need_packages "libclang-rt-${clang#clang-}-dev"; fi
need_libtorch $variant
if [ $tests -eq 1 ]; then
  python_env testenv "$project/tests/requirements.txt"
  options+=("-DSHALLOWPI_TEST_PYTHON=$python_env_bin/python")
fi

cd "$project"
preset=release
if [ $variant = cuda ]; then preset=cuda; fi
say "building (${targets[*]}, $variant)"
cmake --preset $preset "${options[@]}" >/dev/null
cmake --build --preset $preset --target "${targets[@]}"
say "the programs are in build/bin"
