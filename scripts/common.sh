# Shared by the scripts in this folder: what they install, where, and how they say so. Source it.
set -euo pipefail
shopt -s inherit_errexit
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shallowpi
install=1  # --no-install sets 0: only check and say what is missing

torch_version=2.11.0
# The CPU libraries of the wheel need just these two of its CUDA dependencies (1.3 GB instead of 4.7).
torch_cpu_needs="nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85"

build_packages="build-essential cmake ninja-build ccache pkg-config git python3 python3-pip python3-venv
  libyaml-cpp-dev libspdlog-dev libcli11-dev nlohmann-json3-dev libhdf5-dev libsentencepiece-dev libturbojpeg0-dev
  libdeflate-dev libssl-dev libboost-dev libmsgpack-cxx-dev"
test_packages="libgtest-dev ffmpeg"
libero_packages="libosmesa6 libegl1 libgl1-mesa-dri libgl1 libgles2 libglib2.0-0 ffmpeg"
# Ubuntu has other names for two of them.
case $(grep -s '^VERSION_ID=' /etc/os-release) in
  *22.04*) build_packages=${build_packages/libmsgpack-cxx-dev/libmsgpack-dev} ;;
  *24.04*) libero_packages=${libero_packages/libglib2.0-0/libglib2.0-0t64} ;;
esac

# LibTorch's headers compile in half the time with a recent clang. CXX overrides.
clang=clang-19

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
# usage: prints the comment that the script begins with, and ends it.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$project/scripts/${0##*/}"; exit 0; }

# read_install_option "$@": of a script that takes --no-install and --help only.
read_install_option() {
  case ${1:-} in
    '') ;;
    --no-install) install=0 ;;
    -h | --help) usage ;;
    *) die "unknown option $1 (see --help)" ;;
  esac
}

# need_packages PACKAGE...: installs with apt what dpkg does not have.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local root=(); [ "$(id -u)" -eq 0 ] || root=(sudo)
  if [ "$install" -eq 0 ]; then
    die "missing packages: ${missing[*]}
  install them with: ${root[*]} apt-get install ${missing[*]}"
  fi
  [ ${#root[@]} -eq 0 ] || sudo true || die "installing packages needs root; ask for: apt-get install ${missing[*]}"
  say "installing packages: ${root[*]} apt-get install ${missing[*]}"
  # Another apt, such as the system's daily one, may hold the lists; this command, unlike install, cannot wait for it.
  local try
  for try in {1..12}; do "${root[@]}" apt-get update -q >/dev/null && break; sleep 5; done
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# once DIR COMMAND...: runs COMMAND, which fills DIR, unless it ran to its end before. An interrupted run is repaired.
once() {
  local dir=$1; shift
  [ -e "$dir/.complete" ] && return
  [ "$install" -eq 1 ] || die "missing: $dir (run without --no-install to make it)"
  mkdir -p "$(dirname "$dir")"
  exec 8>"$dir.lock"; flock 8
  if [ ! -e "$dir/.complete" ]; then
    rm -rf "$dir"
    "$@"
    touch "$dir/.complete"
  fi
  flock -u 8
}

# need_compiler: sets CC and CXX, unless the caller already has: clang where the system packages it, else g++.
need_compiler() {
  [ -n "${CXX:-}" ] && return
  if ! command -v "$clang" >/dev/null; then
    [ "$install" -eq 1 ] && apt-cache show "$clang" >/dev/null 2>&1 || return 0
    need_packages "$clang"
  fi
  export CC=$clang CXX=${clang/clang/clang++}
}

# The system's python3, for which pip and venv are installed above: an active environment's may lack both.

# need_libtorch cpu|cuda: sets LIBTORCH_ROOT unless the caller already has.
need_libtorch() {
  [ -n "${LIBTORCH_ROOT:-}" ] && return
  local dir=$cache/libtorch-$torch_version-$1
  fetch_libtorch() {
    say "downloading LibTorch $torch_version ($1) to $dir"
    if [ "$1" = cpu ]; then
      /usr/bin/python3 -m pip install -q --no-deps --disable-pip-version-check --target "$dir" \
        "torch==$torch_version" $torch_cpu_needs
    else
      /usr/bin/python3 -m pip install -q --disable-pip-version-check --target "$dir" "torch==$torch_version"
    fi
  }
  once "$dir" fetch_libtorch "$1"
  export LIBTORCH_ROOT=$dir/torch
}

# python_env NAME REQUIREMENTS_FILE: a virtual environment of its own; sets python_env_bin to its bin folder.
python_env() {
  local dir; dir=$cache/$1-$(sha256sum "$2" | cut -c1-12)
  make_env() {
    say "making the Python environment $dir"
    /usr/bin/python3 -m venv "$dir"
    "$dir/bin/pip" install -q --disable-pip-version-check -r "$1"
  }
  once "$dir" make_env "$2"
  python_env_bin=$dir/bin
}
