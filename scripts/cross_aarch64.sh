#!/usr/bin/env bash
# Cross-compiles for aarch64 (Jetson, Grace) and runs the unit tests under qemu, so that the port cannot rot.
#   usage: scripts/cross_aarch64.sh [--build-only] [--no-install]     Debian 12; about 40 min on 2 cores, 3 GB of disk
# The programs in build-aarch64/bin want the distribution that they were linked for: build on the robot itself for use.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run=1
for argument in "$@"; do
  case $argument in
    --build-only) run=0 ;;
    --no-install) install=0 ;;
    -h | --help) usage ;;
    *) die "unknown option $argument (see --help)" ;;
  esac
done

# The packages of the target, unpacked and not installed: nothing of it runs on this machine.
unpack_root() {
  local packages="libc6-dev libstdc++-12-dev $build_packages libgtest-dev" package wanted=()
  for package in $packages; do
    case $package in build-essential | cmake | ninja-build | ccache | pkg-config | git | python3*) ;; *) wanted+=("$package") ;; esac
  done
  say "unpacking an aarch64 Debian to $1"
  mmdebstrap --quiet --variant=extract --architectures=arm64 --include="$(IFS=,; echo "${wanted[*]}")" bookworm "$1" \
    http://deb.debian.org/debian
  ln -s hdf5-serial.pc "$1/usr/lib/aarch64-linux-gnu/pkgconfig/hdf5.pc"  # installing would have done it
}

fetch_libtorch_aarch64() {
  say "downloading LibTorch $torch_version (aarch64) to $1"
  python3 -m pip install -q --no-deps --disable-pip-version-check --target "$1" --python-version 3.12 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_25_aarch64 --platform manylinux_2_17_aarch64 \
    --only-binary :all: "torch==$torch_version" $torch_cpu_needs
}

need_packages $build_packages "$clang" "lld-${clang#clang-}" mmdebstrap qemu-user
sysroot=$cache/aarch64-bookworm libtorch=$cache/libtorch-$torch_version-aarch64
once "$sysroot" unpack_root "$sysroot"
once "$libtorch" fetch_libtorch_aarch64 "$libtorch"
export CC=$clang CXX=${clang/clang/clang++} SHALLOWPI_SYSROOT=$sysroot LIBTORCH_ROOT=$libtorch/torch

cd "$project"
say "building for aarch64"
cmake --preset aarch64 -DSHALLOWPI_TESTS=ON >/dev/null
tests=(base_tests data_tests model_tests distill_tests runtime_tests eval_tests)
cmake --build build-aarch64 --target shallowpi-distill shallowpi-eval shallowpi-infer "${tests[@]}"
[ $run -eq 1 ] || exit 0

say "unit tests under qemu"
export QEMU_LD_PREFIX=$sysroot OMP_NUM_THREADS=1
# Not run: qemu limits no memory, and the programs cannot start each other.
skipped=Hdf5Child.DeathIsADamagedFile:CommandLine*
for test in "${tests[@]}"; do
  qemu-aarch64 "build-aarch64/bin/$test" --gtest_brief=1 --gtest_filter="-$skipped"
done
say "passed: ${tests[*]} on aarch64"
