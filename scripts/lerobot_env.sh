#!/usr/bin/env bash
# Makes, once, a Python environment with LeRobot 0.6.1's pi0 and pi0.5 (for tests and benchmarks; about 7 GB), and prints
# the path of its python.   usage: scripts/lerobot_env.sh [--no-install]
#   LEROBOT_TORCH_SITE=DIR   a site-packages folder of the same Python that has torch 2.11.0, instead of downloading it
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
read_install_option "$@"
env_dir=$cache/lerobot-0.6.1

# LeRobot asks for Python 3.12, but all that it needs of it are two pieces of syntax in four files.
allow_older_python() {
  "$env_dir/bin/python" - <<'PYTHON'
import pathlib
import re
import site

root = pathlib.Path(site.getsitepackages()[0]) / "lerobot"


def edit(name, change):
    path = root / name
    path.write_text(change(path.read_text()))


type_variables = 'import typing as _typing\nTInput = _typing.TypeVar("TInput")\nTOutput = _typing.TypeVar("TOutput")\n'
future = "from __future__ import annotations\n"
edit("utils/io_utils.py", lambda text: text.replace("[T: JsonLike](fpath: Path, obj: T) -> T:", "(fpath: Path, obj):"))
edit("processor/pipeline.py",
     lambda text: text.replace(future, future + type_variables, 1).replace(
         "class DataProcessorPipeline[TInput, TOutput](HubMixin):",
         "class DataProcessorPipeline(HubMixin, _typing.Generic[TInput, TOutput]):"))
for name in ("motors/motors_bus.py", "datasets/aggregate.py"):
    edit(name, lambda text: re.sub(r"^type (\w+) = .*", r"\1 = object", text, flags=re.M))
PYTHON
}

make_lerobot_env() {
  say "making the LeRobot environment $env_dir" >&2
  python3 -m venv "$env_dir"
  local pip=("$env_dir/bin/pip" install -q --disable-pip-version-check)
  if [ -n "${LEROBOT_TORCH_SITE:-}" ]; then
    echo "$LEROBOT_TORCH_SITE" >"$("$env_dir/bin/python" -c 'import site; print(site.getsitepackages()[0])')/torch.pth"
  else
    "${pip[@]}" "torch==$torch_version"
  fi
  "${pip[@]}" transformers==5.5.4 draccus==0.11.6 einops==0.8.2 gymnasium==1.4.0 safetensors==0.8.0 numpy==2.2.6 \
    accelerate==1.15.0 sentencepiece==0.2.3 termcolor==3.3.0 opencv-python-headless==5.0.0.93 Pillow requests packaging \
    tqdm protobuf
  "${pip[@]}" --no-deps torchvision==0.26.0
  "${pip[@]}" --no-deps --ignore-requires-python lerobot==0.6.1
  if ! "$env_dir/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then allow_older_python; fi
  HF_HUB_OFFLINE=1 "$env_dir/bin/python" -c 'import lerobot.policies.pi0.modeling_pi0, lerobot.policies.pi05.modeling_pi05'
}

once "$env_dir" make_lerobot_env
echo "$env_dir/bin/python"
