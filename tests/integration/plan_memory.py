#!/usr/bin/env python3
"""Is what --dry-run says within 10 % of what a run takes, at several sizes?

    plan_memory.py path/to/shallowpi-distill

Compares the planned peak memory with the process's, and the planned checkpoint size with the folder's.
"""
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import kill_resume

SIZES = {
    "weights dominate": "backbone.width=512 backbone.mlp=2048 backbone.depth=6 expert.width=256 expert.mlp=1024 "
                        "expert.depth=6 vision.width=128 vision.mlp=256 train.batch_size=2",
    "activations dominate": "backbone.width=128 backbone.mlp=512 backbone.depth=6 expert.width=128 expert.mlp=256 "
                            "expert.depth=6 vision.width=128 vision.mlp=512 vision.depth=4 vision.patch=4 "
                            "vision.image_size=64 train.batch_size=16",
}
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def planned(text, row):
    number, unit = re.search(rf"^{re.escape(row)}\s+([\d.]+) (\w+)", text, re.MULTILINE).groups()
    return float(number) * UNITS[unit]


def settings(sizes):
    for item in sizes.split():
        part = item.split(".")[0] in ("backbone", "expert", "vision")
        yield ("student.architecture." if part else "") + item


def main():
    failed = False
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    for name, sizes in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="shallowpi-plan-") as scratch:
            run = Path(scratch) / "run"
            (Path(scratch) / "config.yaml").write_text("seed: 3\n")
            command = kill_resume.command(sys.argv[1], run) + ["train.steps=3", "data.augment=false", *settings(sizes)]
            plan = subprocess.run(command + ["--dry-run"], check=True, capture_output=True, text=True,
                                  env=environment).stdout
            process = subprocess.Popen(command, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0, status
            last = run / "last"
            size = sum(path.stat().st_size for path in last.resolve().rglob("*") if path.is_file())
            for row, measured in (("memory, peak", usage.ru_maxrss * 1024), ("checkpoint", size)):
                ratio = planned(plan, row) / measured
                failed |= not 0.9 <= ratio <= 1.1
                print(f"{name}: {row}: planned {planned(plan, row) / 2**20:.1f} MiB, measured "
                      f"{measured / 2**20:.1f} MiB, ratio {ratio:.3f}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
