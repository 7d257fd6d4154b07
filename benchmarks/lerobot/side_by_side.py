#!/usr/bin/env python3
"""Training step and sample_actions of this project against LeRobot's modules: same weights, inputs and threads, in
alternating processes of one run.
usage: side_by_side.py POLICY_BENCHMARK [--sizes tiny,512/256] [--rounds 3] [--compile] [--out FILE.json]

Times are CPU seconds of the single thread, so that other processes on the machine count as little as possible. Prints
Markdown tables. Fails where the two sides do not compute the same. With --compile LeRobot's side runs under torch.compile;
compiling is not timed.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import small_policy
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
PROMPT = 200  # LeRobot pads every pi0.5 prompt to this
REPETITIONS = {"tiny": 10, "512/256": 2}


def cases(sizes: small_policy.Sizes):
    """(name, task, inputs)."""
    ragged = [60 - 20 * i // max(sizes.batch - 1, 1) for i in range(sizes.batch)]
    make = small_policy.make_inputs
    yield (f"training step, 2 cameras, prompts of 40-60 padded to {PROMPT}", "train",
           make(sizes, sizes.batch, 2, 0, PROMPT, ragged, 1))
    yield ("training step, 2 cameras, prompts of 60 without padding", "train",
           make(sizes, sizes.batch, 2, 0, 60, [60] * sizes.batch, 2))
    yield (f"sample_actions, 3 camera slots of which 1 masked, prompt of 60 padded to {PROMPT}", "sample",
           make(sizes, 1, 3, 1, PROMPT, [60], 3))
    yield ("sample_actions, 2 cameras, prompt of 60 without padding", "sample", make(sizes, 1, 2, 0, 60, [60], 4))


def execute(command: list) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([str(part) for part in command], env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def summary(runs: list) -> dict:
    seconds = [s for run in runs for s in run["cpu_seconds"]]
    return {"median": statistics.median(seconds), "min": min(seconds), "peak_mib": max(r["peak_mib"] for r in runs),
            "baseline_mib": min(r["baseline_mib"] for r in runs), "first_result": runs[0]["first_result"]}


def compare(size: str, folder: pathlib.Path, args) -> list:
    sizes, rows = small_policy.SIZES[size], []
    for number, (name, task, inputs) in enumerate(cases(sizes)):
        path = folder / f"{number}.safetensors"
        save_file(inputs, path)
        common = [task, "--checkpoint", folder / "policy", "--input", path, "--repetitions", REPETITIONS[size]]
        runs = {"lerobot": [], "ours": []}
        for _ in range(args.rounds):
            runs["lerobot"].append(execute([sys.executable, HERE / "lerobot_worker.py", *common, "--size", size,
                                            *["--compile"] * args.compile]))
            runs["ours"].append(execute([args.benchmark, *common]))
        row = {"size": size, "case": name, "task": task} | {side: summary(list_) for side, list_ in runs.items()}
        first = [row[side]["first_result"] for side in runs]
        if abs(first[0] - first[1]) > 1e-4 * abs(first[0]):
            sys.exit(f"{name}: LeRobot computes {first[0]}, we {first[1]}")
        rows.append(row)
        print(".", end="", file=sys.stderr, flush=True)
    return rows


def draws_cost(size: str, folder: pathlib.Path, args) -> list:
    rows = []
    common = ["train", "--checkpoint", folder / "policy", "--input", folder / "1.safetensors",
              "--repetitions", REPETITIONS[size]]
    runs = {draws: [] for draws in (1, 4, 8)}
    for _ in range(args.rounds):
        for draws in runs:
            runs[draws].append(execute([args.benchmark, *common, "--draws", draws]))
    for draws, results in runs.items():
        rows.append({"size": size, "draws": draws} | summary(results))
    return rows


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.1f}"


def print_tables(report: dict) -> None:
    peer = "LeRobot compiled" if report["compiled"] else "LeRobot"
    print(f"| size | task | {peer} ms | ours ms | speed | {peer} peak MiB | ours peak MiB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in report["comparison"]:
        lerobot, ours = row["lerobot"], row["ours"]
        print(f"| {row['size']} | {row['case']} | {milliseconds(lerobot['median'])} | {milliseconds(ours['median'])} | "
              f"{lerobot['median'] / ours['median']:.2f}x | {lerobot['peak_mib']:.0f} ({lerobot['baseline_mib']:.0f}) | "
              f"{ours['peak_mib']:.0f} ({ours['baseline_mib']:.0f}) |")
    print("\n| size | draws | ms per step | against R = 1 | peak MiB |\n|---|---:|---:|---:|---:|")
    for row in report["draws"]:
        one = next(r for r in report["draws"] if r["size"] == row["size"] and r["draws"] == 1)
        print(f"| {row['size']} | {row['draws']} | {milliseconds(row['median'])} | "
              f"{row['median'] / one['median'] - 1:+.1%} | {row['peak_mib']:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("benchmark", type=pathlib.Path)
    parser.add_argument("--sizes", default="tiny,512/256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    report = {"compiled": args.compile, "comparison": [], "draws": []}
    for size in args.sizes.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            network = small_policy.make_network(small_policy.SIZES[size])
            small_policy.randomise(network, 0)
            small_policy.save_openpi(network, folder / "policy")
            report["comparison"] += compare(size, folder, args)
            report["draws"] += draws_cost(size, folder, args)
    print(file=sys.stderr)
    print_tables(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
