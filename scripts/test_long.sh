#!/usr/bin/env bash
# What does not fit in scripts/test.sh; run it before a release.   usage: scripts/test_long.sh [--no-install] [PART...]
#   kills        1000 kill -9 during training                                    about 30 min
#   lerobot      exports loaded and run in the real LeRobot 0.6.1                 about 3 min beyond 7 GB of downloads
#   full-size    3.3 B parameters: load, run, make a student (24 GiB, 13 GB disk) about 15 min
#   serve        64 clients x 1000 requests, 200 half-open connections             about 5 min
#   autobahn     websocket conformance; needs a python2.7 (PYTHON2=...)            about 5 min
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$project"
options=() parts=()
for argument in "$@"; do
  case $argument in
    --no-install) install=0; options+=("$argument") ;;
    kills | lerobot | full-size | serve | autobahn) parts+=("$argument") ;;
    -h | --help) sed -n '2,7s/^# //p' "$0"; exit 0 ;;
    *) die "unknown argument $argument (see --help)" ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(kills lerobot full-size serve autobahn)
./scripts/build.sh --tests --cpu "${options[@]}"
python_env testenv "$project/tests/requirements.txt"

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
      scratch=$(mktemp -d)
      for kind in pi0 pi05; do build/bin/full_size_check $kind "$scratch"; rm -rf "${scratch:?}"/*; done
      rm -rf "$scratch"
      ;;
    serve) "$python_env_bin/python" tests/integration/serve_load.py build/bin/fake_policy_server ;;
    autobahn)
      "$python_env_bin/python" tests/integration/autobahn.py build/bin/fake_policy_server "${PYTHON2:-python2.7}"
      ;;
  esac
done
say "passed: ${parts[*]}"
