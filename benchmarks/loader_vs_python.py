#!/usr/bin/env python3
"""Compares the loader with the plain Python way, h5py + Pillow, on the same frames, one core each.

    benchmarks/loader_vs_python.py FILE... --tokenizer MODEL [--program build/bin/loader_benchmark] [--json OUT]

Both make batches of [-1, 1] float images of 224 x 224 from random frames of LIBERO files. The Python side does only
that; ours makes complete training batches. Runs alternate; the best of each counts, per second of CPU time, because
other programs disturb wall time more. Needs numpy, h5py and Pillow.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import h5py
import numpy as np
from PIL import Image

CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")


def resize_with_pad(image, size):
    """openpi's, by Pillow."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    ratio = max(width / size, height / size)
    rows, columns = int(height / ratio), int(width / ratio)
    out = Image.new("RGB", (size, size), 0)
    out.paste(image.resize((columns, rows), Image.BILINEAR), ((size - columns) // 2, (size - rows) // 2))
    return out


def python_loader(files, size, batch, batches):
    """Frames per CPU second and per second."""
    opened = [h5py.File(path, "r") for path in files]
    demos = [demo["obs"] for file in opened for demo in file["data"].values()]
    steps = [(demo, step) for demo in demos for step in range(len(demo[CAMERAS[0]]) - 1)]
    order = np.random.default_rng(0).permutation(len(steps))
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(batches):
        images = {camera: np.empty((batch, 3, size, size), np.float32) for camera in CAMERAS}
        for slot in range(batch):
            demo, step = steps[order[(number * batch + slot) % len(order)]]
            for camera in CAMERAS:
                frame = np.ascontiguousarray(demo[camera][step][::-1, ::-1])
                resized = np.asarray(resize_with_pad(Image.fromarray(frame), size))
                images[camera][slot] = (resized.astype(np.float32) / 255.0 * 2.0 - 1.0).transpose(2, 0, 1)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    frames = batches * batch * len(CAMERAS)
    return {"frames": frames, "frames_per_cpu_second": frames / cpu, "frames_per_second": frames / wall}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--program", default="build/bin/loader_benchmark", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    command = [str(args.program), *args.files, "--tokenizer", args.tokenizer, "--size", str(args.size),
               "--batch", str(args.batch), "--batches", str(args.batches)]
    runs = {"h5py + Pillow": [], "shallowpi": [], "shallowpi, augmented": []}
    for number in range(args.rounds):
        print(f"round {number + 1}/{args.rounds}", file=sys.stderr)
        runs["h5py + Pillow"].append(python_loader(args.files, args.size, args.batch, args.batches))
        for name, extra in (("shallowpi", []), ("shallowpi, augmented", ["--augment"])):
            out = subprocess.run(command + extra, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[name].append(json.loads(out))
    best = {name: max(run["frames_per_cpu_second"] for run in results) for name, results in runs.items()}
    base = best["h5py + Pillow"]
    print("| loader, one core | frames/s | speed |\n|---|---:|---:|")
    for name, speed in best.items():
        print(f"| {name} | {speed:.0f} | {speed / base:.1f}x |")
    if args.json:
        args.json.write_text(json.dumps({"best_frames_per_cpu_second": best, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
