"""Short rollouts in the real simulator, which scripts/setup_libero.sh has installed.
usage: libero_rollout.py SHALLOWPI_EVAL   (shallowpi-infer beside it; run in the project's root)"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

program, root = sys.argv[1], pathlib.Path(__file__).resolve().parents[2]
demonstrations = root / "tests/data/replay/alphabet_soup.hdf5"
teacher = root / "configs/quickstart/teacher"


def rollout(out, *options, environment=None):
    command = [program, "rollout", "--suite", "libero_object", "--tasks", "0", "--out", str(out), "--threads", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})


def episodes(out):
    results = json.loads((out / "results.json").read_text())
    return {(e["task"], e["trial"]): e for e in results["episodes"]}


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def timed(name, action):
    start = time.monotonic()
    value = action()
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return value


def test_images_on_demand(folder):
    """A real policy, so that images matter: rendering before each replan equals rendering at every step, bit for bit."""
    options = ["--checkpoint", str(teacher), "--trials", "2", "--max-steps", "15", "--image-size", "128", "--video", "1"]
    on_demand = rollout(folder / "on_demand", *options)
    check(on_demand.returncode == 0, on_demand.stderr)
    always = rollout(folder / "always", *options, "--render", "always")
    check(always.returncode == 0, always.stderr)
    one, two = episodes(folder / "on_demand"), episodes(folder / "always")
    check(len(one) == 2 and all(e["steps"] == 15 and e["calls"] == 3 for e in one.values()), "not the steps asked for")
    check({k: e["trace"] for k, e in one.items()} == {k: e["trace"] for k, e in two.items()},
          "rendering on demand changed the episodes")
    check(one[0, 0]["trace"] != one[0, 1]["trace"], "two initial states gave the same episode")
    # Of the second trial: the task is loaded, and nothing is recorded. No bound: a GPU draws in no time.
    seconds, seconds_always = (e[0, 1]["seconds"] - e[0, 1]["policy_ms"] / 1000 for e in (one, two))
    print(f"an episode of 15 steps, reset included, without the policy: {seconds:.1f} s on demand, {seconds_always:.1f} s always"
          f" ({seconds_always / seconds:.1f} times)", flush=True)
    videos = list((folder / "on_demand" / "videos").glob("*.mp4"))
    check(len(videos) == 1 and videos[0].stat().st_size > 2000, f"videos: {videos}")
    return one


def serve(port=0):
    """shallowpi-infer serve with the teacher, and its URL."""
    program_of_server = pathlib.Path(program).with_name("shallowpi-infer")
    server = subprocess.Popen([program_of_server, "serve", "--checkpoint", str(teacher), "--port", str(port), "--threads", "1"],
                              stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    check(line.startswith("listening on ws://"), f"the server printed {line!r}")
    return server, line.split()[-1]


def test_server(folder, expected):
    """shallowpi-infer serve plays the episodes of --checkpoint, bit for bit; one that is killed loses none."""
    server, url = serve()
    options = ["--server", url, "--max-steps", "15", "--image-size", "128"]
    try:
        first = rollout(folder / "served", *options, "--trials", "1")
        check(first.returncode == 0, first.stderr)
        server.kill()
        server.wait()
        gone = rollout(folder / "served", *options, "--trials", "2")
        check(gone.returncode == 1 and "cannot connect to 127.0.0.1" in gone.stderr, gone.stderr)
        server, _ = serve(url.rsplit(":", 1)[1])
        second = rollout(folder / "served", *options, "--trials", "2")
        check(second.returncode == 0, second.stderr)
    finally:
        server.kill()
    check({k: e["trace"] for k, e in episodes(folder / "served").items()} == {k: e["trace"] for k, e in expected.items()},
          "the served policy did not play the same episodes")


def test_replay_succeeds(folder):
    """The demonstration that was recorded from this initial state; then with its target displaced."""
    run = rollout(folder / "replay", "--policy", f"replay:{demonstrations}", "--trials", "1")
    check(run.returncode == 0 and "1/1" in run.stdout, run.stdout + run.stderr)
    episode = episodes(folder / "replay")[0, 0]
    check(episode["success"] and episode["steps"] < 150, f"replaying failed: {episode}")

    run = rollout(folder / "moved", "--policy", f"replay:{demonstrations}", "--trials", "1", "--max-steps", "20",
                  "--perturb", "target_r=0.03", "--move", "basket=0.008@90")
    check(run.returncode == 0, run.stderr)
    perturbation = episodes(folder / "moved")[0, 0]["perturbation"]
    dx, dy = perturbation["displaced"]["alphabet_soup_1"]
    check(abs((dx * dx + dy * dy) ** 0.5 - 0.03) < 1e-9, f"displaced by {dx}, {dy}")
    check(abs(perturbation["velocity"]["basket_1"][1] - 0.008) < 1e-9, f"velocity {perturbation['velocity']}")
    # And where the simulator says that they are.
    start, end = perturbation["at_start"], perturbation["at_end"]
    check(math.dist(start["alphabet_soup_1"], (dx, dy)) < 0.003, f"displaced by {dx}, {dy}, but stands at {start}")
    moved = [b - a for a, b in zip(start["basket_1"], end["basket_1"])]
    check(math.dist(moved, (0, 0.008 * 20 * 0.05)) < 0.0005, f"the basket moved by {moved}")


def test_says_what_is_wrong(folder):
    run = rollout(folder / "unknown", "--policy", "noop", "--perturb", "teapot_xy=0.01", "--trials", "1", "--max-steps", "1")
    check(run.returncode == 2 and "teapot" in run.stderr and "basket_1" in run.stderr, run.stderr)
    run = rollout(folder / "blind", "--checkpoint", str(teacher), "--trials", "1", "--max-steps", "1",
                  environment={"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"})
    check(run.returncode == 2 and "cannot render" in run.stderr and "libgl1-mesa-dri" in run.stderr, run.stderr)


with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    played = timed("test_images_on_demand", lambda: test_images_on_demand(folder))
    timed("test_server", lambda: test_server(folder, played))
    for test in (test_replay_succeeds, test_says_what_is_wrong):
        timed(test.__name__, lambda: test(folder))
