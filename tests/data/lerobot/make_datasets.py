#!/usr/bin/env python3
"""Writes small datasets with the real LeRobot into this folder, for convert_lerobot_test.py.

    python make_datasets.py     once with lerobot 0.3.3 (writes v21_*) and once with lerobot 0.6.1 (v30_*)

Three episodes of 4, 6 and 5 frames at 10 Hz with two tasks and two cameras; `frame_value` says what every pixel is.
"""
import inspect
import pathlib
import shutil

import numpy as np

LENGTHS = (4, 6, 5)
TASKS = ("fold the towel", "open the drawer", "fold the towel")
CAMERAS = {"observation.images.image": (64, 96), "observation.images.image2": (64, 64)}


def frame_value(episode, frame, camera, height, width):
    """[height, width, 3] uint8: a brightness that tells the frame, plus a slope that tells left from right."""
    slope = np.arange(width) * 40 // width
    rows = np.tile(slope, (height, 1))[:, :, None] + np.array([0, 20, 40])
    return (rows + 10 + 55 * episode + 9 * frame + 3 * camera).astype(np.uint8)


def row_values(episode, frame, size):
    return (episode + frame / 100 + np.arange(size) / 1e4).astype(np.float32)


def write(root, use_videos):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # the test imports this file without LeRobot

    shutil.rmtree(root, ignore_errors=True)
    kind = "video" if use_videos else "image"
    features = {key: {"dtype": kind, "shape": (*size, 3), "names": ["height", "width", "channels"]}
                for key, size in CAMERAS.items()}
    features["observation.state"] = {"dtype": "float32", "shape": (6,), "names": [f"joint_{i}" for i in range(6)]}
    features["action"] = {"dtype": "float32", "shape": (5,), "names": [f"motor_{i}" for i in range(5)]}
    dataset = LeRobotDataset.create("local/test", fps=10, features=features, root=root, use_videos=use_videos)
    task_is_argument = "task" in inspect.signature(dataset.add_frame).parameters
    for episode, (length, task) in enumerate(zip(LENGTHS, TASKS)):
        for frame in range(length):
            values = {key: frame_value(episode, frame, camera, *size)
                      for camera, (key, size) in enumerate(CAMERAS.items())}
            values["observation.state"] = row_values(episode, frame, 6)
            values["action"] = row_values(episode, frame, 5)
            if task_is_argument:
                dataset.add_frame(values, task=task)
            else:
                dataset.add_frame({**values, "task": task})
        dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)


def main():
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION

    here = pathlib.Path(__file__).resolve().parent
    version = CODEBASE_VERSION.replace(".", "")
    for use_videos in (False, True):
        write(here / f"{version}_{'videos' if use_videos else 'images'}", use_videos)


if __name__ == "__main__":
    main()
