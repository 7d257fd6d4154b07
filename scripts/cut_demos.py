#!/usr/bin/env python3
"""Cuts LIBERO demonstration files down: fewer demos, smaller images, same HDF5 layout.

    scripts/cut_demos.py libero_object_0.hdf5 --demos 5 --size 64 --out small/alphabet_soup.hdf5
    scripts/cut_demos.py libero_object_0.hdf5 --demos 5 --size 128 --jpeg 90 --out small/alphabet_soup.hdf5

Images are reduced by averaging whole blocks of pixels. They are compressed in strips of a few rows over several frames, which a
static camera repays; or, much smaller, as JPEG, which our reader takes. Simulator states and MuJoCo models are left out: training
does not read them. Needs h5py, numpy and, for JPEG, Pillow.
"""
import argparse
import pathlib
import sys

try:
    import h5py
    import numpy as np
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; pip install numpy h5py")
from libero_demos import Replaced, jpeg_rows

KEPT = ("actions", "dones", "rewards", "obs/ee_states", "obs/gripper_states", "obs/joint_states")
DRAWN = "obs/drawn"  # of collect_libero_demos.py --render-every: which frames are no repetitions
IMAGES = ("obs/agentview_rgb", "obs/eye_in_hand_rgb")
STRIP = 3 * 1024  # bytes; gzip looks 32 KB back, which is ten frames of a strip


def shrink(frames, size):
    """[T, S, S, 3] uint8 -> [T, size, size, 3]; size must divide S."""
    if frames.ndim != 4:
        raise SystemExit("error: these images are JPEGs: start from the file that they were cut from")
    t, s, _, c = frames.shape
    if s % size:
        raise SystemExit(f"error: images are {s} pixels wide: --size must divide that, got {size}")
    k = s // size
    blocks = frames.reshape(t, size, k, size, k, c).astype(np.float32)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def cut(source, out, demos, size, frames_per_chunk, jpeg):
    names = sorted(source["data"], key=lambda n: int(n.split("_")[1]))[:demos]
    data = out.create_group("data")
    for key, value in source["data"].attrs.items():
        data.attrs[key] = value
    total = 0
    for name in names:
        demo = source["data"][name]
        group = data.create_group(name)
        group.attrs["num_samples"] = demo["actions"].shape[0]
        total += demo["actions"].shape[0]
        for key in KEPT:
            group.create_dataset(key, data=demo[key][:])
        if DRAWN in demo:
            group.create_dataset(DRAWN, data=demo[DRAWN][:])
        for key in IMAGES:
            frames = shrink(demo[key][:], size)
            chunk = (min(size, max(1, STRIP // (3 * size))), size, 3)
            if jpeg:
                frames = jpeg_rows(frames, jpeg)
                chunk = frames.shape[1:]
            group.create_dataset(key, data=frames, chunks=(min(frames_per_chunk, len(frames)), *chunk), compression="gzip",
                                 compression_opts=9)
    data.attrs["num_demos"] = len(names)
    data.attrs["total"] = total
    return len(names), total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--demos", type=int, default=5, help="keep the first N demos (numeric order)")
    parser.add_argument("--size", type=int, default=64, help="image side in pixels")
    parser.add_argument("--chunk", type=int, default=20, help="frames per compressed chunk: more are smaller and slower to read")
    parser.add_argument("--jpeg", type=int, choices=range(1, 101), metavar="QUALITY", help="1 to 100; default: lossless")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    for name in ("demos", "size", "chunk"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.out.is_dir():
        sys.exit(f"error: --out {args.out} is a folder: name the file to write, such as {args.out / args.source.name}")
    try:
        with h5py.File(args.source, "r") as source, Replaced(args.out) as temporary, h5py.File(temporary, "w") as out:
            demos, frames = cut(source, out, args.demos, args.size, args.chunk, args.jpeg)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; pip install Pillow")
    except (OSError, KeyError) as error:
        sys.exit(f"error: {args.source}: {error}")
    print(f"{args.out}: {demos} demos, {frames} frames, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
