#!/usr/bin/env bash
# Makes, once, the Python environment of the LIBERO simulator (340 MB down, 2.1 GB on disk, about two minutes) and prints
# the path of its python; `shallowpi-eval rollout` finds it by itself.   usage: scripts/setup_libero.sh [--no-install]
#   LIBERO_BASE_PYTHON=PYTHON   the Python 3.10 or 3.11 to make it from (default: python3, python3.11 or python3.10)
# A LIBERO that is installed already works too: shallowpi-eval rollout --python .../bin/python
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_install_option "$@"
requirements=$project/scripts/libero_requirements.txt
env_dir=$cache/libero-$(sha256sum "$requirements" | cut -c1-12)

# MuJoCo 2.3.7, the version that LIBERO was made with, has no build for a later Python.
base_python() {
  local candidate
  local candidates=(python3 python3.11 python3.10)
  if [ -n "${LIBERO_BASE_PYTHON:-}" ]; then candidates=("$LIBERO_BASE_PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  die "no Python 3.10 or 3.11 found, which MuJoCo 2.3.7 needs: install one and give LIBERO_BASE_PYTHON=/path/to/python"
}

make_libero_env() {
  local python; python=$(base_python)
  say "making the LIBERO environment $env_dir" >&2
  "$python" -m venv "$env_dir"
  "$env_dir/bin/pip" install -q --disable-pip-version-check -r "$requirements" >&2
  # Imports once, so that compiled bytecode and font caches are there before several workers start at once.
  MUJOCO_GL=egl PYOPENGL_PLATFORM=egl "$env_dir/bin/python" -c 'import libero.libero.envs' >/dev/null 2>&1 ||
    die "LIBERO does not import in $env_dir; try: $env_dir/bin/python -c 'import libero.libero.envs'"
}

need_packages $libero_packages >&2
once "$env_dir" make_libero_env
ln -sfn "$env_dir" "$cache/libero"
echo "$env_dir/bin/python"
