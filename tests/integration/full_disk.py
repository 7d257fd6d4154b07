#!/usr/bin/env python3
"""Training where checkpoints cannot be written: a clear error, exit code 1, and the checkpoint before intact.

    full_disk.py path/to/shallowpi-distill

The disk's end is played by RLIMIT_FSIZE: no file may grow beyond the limit, so that a write fails partway.
"""
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import kill_resume


def run(binary, folder, more=(), file_limit=None):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    # Without restore_signals, SIGXFSZ stays ignored, and the write fails with EFBIG instead.
    return subprocess.run(kill_resume.command(binary, folder) + list(more), capture_output=True, text=True,
                          preexec_fn=limit if file_limit else None, restore_signals=False)


def main():
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="shallowpi-disk-") as scratch:
        folder = Path(scratch) / "run"
        (Path(scratch) / "config.yaml").write_text("seed: 3\n")
        done = run(binary, folder, ["train.steps=6"])
        assert done.returncode == 0, done.stderr
        before = kill_resume.published(folder)
        link = (folder / "last").readlink()
        files = sorted(path for path in (folder / "last").rglob("*") if path.is_file())
        sizes = {path.name: path.stat().st_size for path in files}
        for name in ("model.safetensors", "optimizer.safetensors"):
            failed = run(binary, folder, ["train.steps=12"], file_limit=sizes[name] // 2)
            assert failed.returncode == 1, (failed.returncode, failed.stderr)
            assert "cannot write" in failed.stderr and ".safetensors" in failed.stderr, failed.stderr
            assert kill_resume.published(folder) == before, "an earlier checkpoint is gone"
            assert (folder / "last").readlink() == link
        done = run(binary, folder, ["train.steps=12"])
        assert done.returncode == 0, done.stderr
        kill_resume.check_clean_start(folder)
        assert 12 in kill_resume.published(folder)
        print("full disk: reported, and the run went on afterwards")


if __name__ == "__main__":
    sys.exit(main())
