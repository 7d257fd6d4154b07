#!/usr/bin/env python3
"""Kills a training run at random moments (SIGKILL) and checks what the project promises.

    kill_resume.py path/to/shallowpi-distill [--kills 50] [--seed N]

After every kill: all published checkpoints verify, the newest one is never older than one seen before, at most one
saving interval is lost, and no half-written folder is left after the next start. At the end of every run: weights,
optimiser state and metrics.jsonl are byte for byte those of a run that was never killed.
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAVE_EVERY = 3
STEPS = 150
SETTINGS = f"""
student.architecture.kind=pi05 student.architecture.vocab=512
student.architecture.vision.depth=1 student.architecture.vision.width=16 student.architecture.vision.mlp=16
student.architecture.vision.heads=2 student.architecture.vision.patch=8 student.architecture.vision.image_size=16
student.architecture.backbone.depth=2 student.architecture.backbone.width=16 student.architecture.backbone.mlp=16
student.architecture.backbone.head_dim=8
student.architecture.expert.depth=2 student.architecture.expert.width=16 student.architecture.expert.mlp=16
student.architecture.expert.head_dim=8
policy.horizon=4 policy.max_token_len=32 policy.image_keys=[base_0_rgb] policy.prompt_mode=pi05_no_state
policy.norm_mode=quantile data.min_norm_range=0.05 data.held_out_fraction=0.25 data.workers=1
optimizer.peak_lr=1e-3 optimizer.warmup_steps=2 optimizer.decay_steps=100
train.steps={STEPS} train.batch_size=2 train.log_every=2 train.eval_every=30 train.eval_frames=2
train.save_every={SAVE_EVERY} train.keep_last=2 train.keep_every=60 threads=1
""".split()


def command(binary, output):
    return [
        binary, "--config", str(Path(output).parent / "config.yaml"), "--quiet",
        f"data.files={ROOT}/configs/quickstart/butter.hdf5",
        f"data.tokenizer={ROOT}/tests/data/tokenizer/small.model", f"output_dir={output}", *SETTINGS,
    ]


def published(run):
    """Steps of the published checkpoints; each must verify against its manifest."""
    steps = []
    for folder in sorted((run / "checkpoints").glob("step_*")):
        if not folder.name[5:].isdigit():
            continue
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, entry in manifest["files"].items():
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            assert digest == entry["sha256"], f"{folder}/{name} does not match its manifest"
        steps.append(int(folder.name[5:]))
    return steps


def final_bytes(run):
    last = run / "last"
    files = [run / "metrics.jsonl", last / "model.safetensors"]
    files += [last / "training_state" / name for name in ("optimizer.safetensors", "state.json")]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def start(binary, run, environment):
    return subprocess.Popen(command(binary, run), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def fail_unless_done(process):
    error = process.communicate()[1].decode()
    assert process.returncode == 0, f"exit code {process.returncode}: {error}"


def check_after_kill(run, newest_before):
    steps = published(run)
    newest = max(steps, default=-1)
    assert newest >= newest_before, f"step {newest_before} was published, but only {steps} are left"
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []
    logged = json.loads(lines[-1])["step"] if lines else 0
    # One interval is running and one may be on its way to the disk.
    assert logged - max(newest, 0) <= 2 * SAVE_EVERY, f"step {logged} was logged, but {newest} is the newest saved"
    return newest


def check_clean_start(run):
    leftovers = [path for path in run.rglob("*.tmp-*")]
    assert not leftovers, f"left over: {leftovers}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    choose = random.Random(options.seed)
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory(prefix="shallowpi-kill-") as scratch:
        (Path(scratch) / "config.yaml").write_text("seed: 3\n")
        reference, run = Path(scratch) / "reference", Path(scratch) / "run"
        begin = time.monotonic()
        fail_unless_done(start(options.binary, reference, environment))
        seconds = time.monotonic() - begin
        expected = final_bytes(reference)
        kills = completed = during_save = 0
        newest = -1
        while kills < options.kills or completed == 0:
            process = start(options.binary, run, environment)
            # A fifth of a whole run on average, and sometimes during start-up.
            wait = choose.uniform(0, 0.5 * seconds) if kills < options.kills else 600
            try:
                process.wait(timeout=wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                during_save += any(True for _ in run.rglob("*.tmp-*"))
                newest = check_after_kill(run, newest)
                continue
            fail_unless_done(process)
            check_clean_start(run)
            published(run)
            for name, content in final_bytes(run).items():
                assert content == expected[name], f"{name} differs from that of a run without kills"
            completed += 1
            newest = -1
            shutil.rmtree(run)
        print(f"{kills} kills ({during_save} during a save), {completed} completed runs, all byte-equal; "
              f"{time.monotonic() - begin:.0f} s (one run without kills: {seconds:.1f} s)")


if __name__ == "__main__":
    sys.exit(main())
