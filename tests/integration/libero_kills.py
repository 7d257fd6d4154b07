"""Kills real simulators at random during an evaluation: no episode is lost, and none changes.
usage: libero_kills.py SHALLOWPI_EVAL [--trials N] [--kills N] [--steps N]   (after scripts/setup_libero.sh)"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--trials", type=int, default=10, help="of each of two tasks")
parser.add_argument("--kills", type=int, default=10)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()
START_SECONDS = 8
EPISODES = 2 * arguments.trials
demonstrations = pathlib.Path(__file__).resolve().parents[2] / "tests/data/replay/*.hdf5"  # of tasks 0 and 5


def start(out):
    command = [arguments.program, "rollout", "--suite", "libero_object", "--tasks", "0,5", "--trials", str(arguments.trials),
               "--policy", f"replay:{demonstrations}#trial", "--max-steps", str(arguments.steps), "--workers", "2",
               "--threads", "1", "--image-size", "64", "--quiet", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(out.with_suffix(".log"), "w"))


def simulators(parent):
    """The worker processes of a rollout."""
    workers = []
    try:
        for thread in pathlib.Path(f"/proc/{parent}/task").glob("*"):
            for child in (thread / "children").read_text().split():
                if b"libero_worker.py" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                    workers.append(int(child))
    except OSError:  # it ended just now
        pass
    return workers


def episodes(out):
    results = out / "results.json"
    return json.loads(results.read_text())["episodes"] if results.exists() else []


def outcome(episode):
    return {key: episode[key] for key in ("success", "steps", "trace")}


with tempfile.TemporaryDirectory() as scratch:
    calm, stormy = pathlib.Path(scratch, "calm"), pathlib.Path(scratch, "stormy")
    began = time.monotonic()
    if start(calm).wait() != 0:
        sys.exit("FAILED: " + calm.with_suffix(".log").read_text())
    # An episode of few steps takes less than a simulator's start, which has to fit between two kills as well.
    each = max((time.monotonic() - began) / EPISODES, START_SECONDS)

    chance, kills = random.Random(arguments.seed), 0
    run = start(stormy)
    while run.poll() is None:
        # Seldom enough that an episode ends now and then, at moments that know nothing of the episode.
        time.sleep(chance.uniform(0.3, 2) * each)
        workers = simulators(run.pid)
        if kills < arguments.kills and workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            kills += 1
    if run.returncode != 0:
        sys.exit("FAILED: " + stormy.with_suffix(".log").read_text())

    expected = {(e["task"], e["trial"]): outcome(e) for e in episodes(calm)}
    found = {(e["task"], e["trial"]): outcome(e) for e in episodes(stormy)}
    repeated = sum(e["attempts"] - 1 for e in episodes(stormy))
    print(f"{kills} simulators killed, {repeated} episodes begun again, {len(found)} of {EPISODES} played, "
          f"{sum(found[key] == expected[key] for key in found)} as without kills")
    if len(expected) != EPISODES or len({e["trace"] for e in expected.values()}) != EPISODES:
        sys.exit("FAILED: the undisturbed run did not play different episodes")
    if kills == 0 or repeated == 0:
        sys.exit("FAILED: no simulator was killed during an episode")
    if found != expected:
        sys.exit("FAILED: an episode was lost or changed")
