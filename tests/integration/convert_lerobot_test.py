#!/usr/bin/env python3
"""Converts data sets that the real LeRobot wrote (tests/data/lerobot) and compares every number and pixel.

    tests/integration/convert_lerobot_test.py     needs numpy, h5py, pyarrow, Pillow and ffmpeg
"""
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from PIL import Image

PROJECT = pathlib.Path(__file__).resolve().parents[2]
DATA = PROJECT / "tests" / "data" / "lerobot"
sys.path.insert(0, str(DATA))
from make_datasets import LENGTHS, TASKS, frame_value, row_values  # noqa: E402

CAMERAS = {"base_0_rgb": (64, 96), "left_wrist_0_rgb": (64, 64)}


def stored_frame(dataset, index):
    if dataset.ndim == 4:
        return dataset[index]
    return np.asarray(Image.open(io.BytesIO(dataset[index].tobytes())))


class ConvertLeRobot(unittest.TestCase):
    def setUp(self):
        self.out = pathlib.Path(tempfile.mkdtemp(prefix="shallowpi-convert-"))
        self.addCleanup(shutil.rmtree, self.out)

    def copy(self, name):
        """A dataset to be changed, beside where the output goes."""
        target = self.out.with_name(self.out.name + "-dataset")
        shutil.rmtree(target, ignore_errors=True)
        self.addCleanup(shutil.rmtree, target, ignore_errors=True)
        return pathlib.Path(shutil.copytree(DATA / name, target))

    def edit_info(self, dataset, edit):
        path = dataset / "meta" / "info.json"
        info = json.loads(path.read_text())
        edit(info)
        path.write_text(json.dumps(info))

    def convert(self, dataset, *options, fails=False):
        command = [sys.executable, PROJECT / "scripts" / "convert_lerobot.py", dataset, "--out", self.out, *options]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode != 0, fails, result.stderr)
        self.assertEqual(list(self.out.glob("*.tmp")), [])
        return result.stderr if fails else result.stdout

    def check_episode(self, episode, exact):
        with h5py.File(self.out / f"episode_{episode:06d}.hdf5") as file:
            length = LENGTHS[episode]
            self.assertEqual(file.attrs["language_instruction"].decode(), TASKS[episode])
            for name, size in (("action", 5), ("observations/qpos", 6)):
                expected = np.stack([row_values(episode, frame, size) for frame in range(length)])
                np.testing.assert_array_equal(file[name][:], expected)
            images = file["observations/images"]
            self.assertEqual(set(images), set(CAMERAS))
            for camera, (name, size) in enumerate(CAMERAS.items()):
                self.assertEqual(len(images[name]), length)
                for frame in range(length):
                    got = stored_frame(images[name], frame).astype(int)
                    expected = frame_value(episode, frame, camera, *size)
                    # Neighbouring frames differ by 9 grey levels, so a lossy frame is still told from the next.
                    gap = np.abs(got - expected)
                    self.assertLessEqual(gap.max() if exact else gap.mean(), 0 if exact else 3, f"{name} {frame}")

    def test_images(self):
        for version in ("v21", "v30"):
            with self.subTest(version):
                self.setUp()
                self.assertIn("3 episodes, 3 of them (15 frames) new", self.convert(DATA / f"{version}_images"))
                for episode in range(3):
                    self.check_episode(episode, exact=True)

    def test_videos(self):
        for version, frames in (("v21", "auto"), ("v30", "auto"), ("v30", "gzip")):
            with self.subTest(version, frames=frames):
                self.setUp()
                self.convert(DATA / f"{version}_videos", "--frames", frames)
                for episode in range(3):
                    self.check_episode(episode, exact=False)

    def test_chosen_episodes_and_repeating(self):
        self.convert(DATA / "v30_videos", "--episodes", "2")
        self.assertEqual([path.name for path in self.out.glob("*.hdf5")], ["episode_000002.hdf5"])
        self.check_episode(2, exact=False)
        self.assertIn("3 episodes, 2 of them (10 frames) new", self.convert(DATA / "v30_videos", "--episodes", "0-2"))

    def test_one_source_and_one_way_per_folder(self):
        images, head = DATA / "v30_images", ("--camera", "observation.images.image=head")
        self.convert(images, "--episodes", "0")
        self.assertIn(f"dataset {images}, not {DATA / 'v21_videos'}", self.convert(DATA / "v21_videos", fails=True))
        self.assertIn("image=head", self.convert(images, *head, fails=True))
        self.assertIn("frames auto, not jpeg", self.convert(images, "--frames", "jpeg", fails=True))
        self.assertEqual(len(list(self.out.glob("*.hdf5"))), 1)
        (self.out / "episode_000000.hdf5").rename(self.out / "kept")
        self.convert(images, *head, "--episodes", "0")  # no episode is there that another source could mix with
        (self.out / "conversion.json").unlink()
        self.assertIn("no conversion.json", self.convert(images, fails=True))

    def test_camera_names(self):
        self.convert(DATA / "v30_images", "--episodes", "0", "--camera", "observation.images.image=head")
        with h5py.File(self.out / "episode_000000.hdf5") as file:
            self.assertEqual(set(file["observations/images"]), {"head", "left_wrist_0_rgb"})

    def test_tasks_that_change_within_an_episode(self):
        dataset = self.copy("v21_images")
        path = dataset / "data/chunk-000/episode_000001.parquet"
        rows = parquet.read_table(path)
        indices = pyarrow.array([0, 0, 1, 1, 1, 1], pyarrow.int64())
        parquet.write_table(rows.set_column(rows.column_names.index("task_index"), "task_index", indices), path)
        self.convert(dataset)
        with h5py.File(self.out / "episode_000001.hdf5") as file:
            self.assertEqual([text.decode() for text in file["language_instruction"][:]],
                             [TASKS[0]] * 2 + [TASKS[1]] * 4)
        with h5py.File(self.out / "episode_000000.hdf5") as file:
            self.assertNotIn("language_instruction", file)
        (dataset / "meta" / "tasks.jsonl").write_text("")
        shutil.rmtree(self.out)
        self.assertIn("the data names task 0", self.convert(dataset, fails=True))

    def test_states_in_several_keys(self):
        dataset = self.copy("v21_images")
        for path in dataset.glob("data/*/*.parquet"):
            rows = parquet.read_table(path)
            state = np.asarray(rows["observation.state"].to_pylist(), np.float32)
            rows = rows.drop_columns(["observation.state"])
            rows = rows.append_column("joint_position", pyarrow.array(list(state[:, :5])))
            parquet.write_table(rows.append_column("gripper_position", pyarrow.array(state[:, 5])), path)

        def edit(info):
            del info["features"]["observation.state"]
            for key, size in (("joint_position", 5), ("gripper_position", 1)):
                info["features"][key] = {"dtype": "float32", "shape": [size], "names": None}
        self.edit_info(dataset, edit)
        self.convert(dataset)
        for episode in range(3):
            self.check_episode(episode, exact=True)
        self.convert(dataset, "--state", "joint_position,gripper_position")  # the same, so nothing is to be done
        self.assertIn("--state", self.convert(dataset, "--state", "joint_position,grip", fails=True))

    def test_states_may_be_wider_than_actions(self):
        for key, limit in (("observation.state", 1024), ("action", 32)):
            dataset = self.copy("v21_images")
            path = dataset / "data/chunk-000/episode_000000.parquet"
            rows = parquet.read_table(path)
            for width in (limit, limit + 1):
                wide = pyarrow.array([[0.5] * width] * rows.num_rows, pyarrow.list_(pyarrow.float32()))
                parquet.write_table(rows.set_column(rows.column_names.index(key), key, wide), path)
                shutil.rmtree(self.out)
                words = self.convert(dataset, "--episodes", "0", fails=width > limit)
                self.assertIn(f"take at most {limit}" if width > limit else "1 episodes", words)

    def test_depth_images_are_left_out(self):
        for where, flag in (("info", "is_depth_map"), ("info", "video.is_depth_map"), ("video_info", "video.is_depth_map")):
            dataset = self.copy("v21_images")
            camera = "observation.images.image2"
            self.edit_info(dataset, lambda info: info["features"][camera].update({where: {flag: True}}))
            shutil.rmtree(self.out)
            self.assertTrue(self.convert(dataset, "--episodes", "0").strip().endswith("cameras base_0_rgb"))

    def test_videos_are_what_the_metadata_says(self):
        dataset = self.copy("v21_videos")
        self.edit_info(dataset, lambda info: info.update(fps=20))
        self.assertIn("has 10 frames per second, but meta/info.json says 20", self.convert(dataset, fails=True))
        dataset = self.copy("v21_videos")
        self.edit_info(dataset, lambda info: info["features"]["observation.images.image"].update(shape=[64, 64, 3]))
        words = self.convert(dataset, fails=True)
        self.assertIn("its frames are 96 x 64, but meta/info.json says 64 x 64", words)
        self.assertIn("episode_000000.mp4", words)

    def test_frames_that_were_dropped_while_recording(self):
        dataset = self.copy("v30_videos")
        for path in (dataset / "meta/episodes").glob("*/*.parquet"):
            table = parquet.read_table(path)
            for number, name in enumerate(table.column_names):
                if name.endswith("/to_timestamp"):
                    ends = table[name].to_pylist()
                    ends[0] -= 0.1
                    table = table.set_column(number, name, pyarrow.array(ends))
            parquet.write_table(table, path)
        self.assertIn("frames were dropped while recording", self.convert(dataset, fails=True))
        self.convert(dataset, "--episodes", "1")

    def test_missing_files(self):
        for version, name in (("v21", "meta/tasks.jsonl"), ("v21", "meta/episodes.jsonl"), ("v30", "meta/tasks.parquet"),
                              ("v21", "data/chunk-000/episode_000000.parquet"), ("v30", "data/chunk-000/file-000.parquet")):
            with self.subTest(version, name=name):
                dataset = self.copy(f"{version}_images")
                (dataset / name).unlink()
                words = self.convert(dataset, fails=True)
                self.assertTrue(words.splitlines()[-1].startswith("error: "), words)
                self.assertIn(f"{name} is missing", words)
                (dataset / name).write_text("version https://git-lfs.github.com/spec/v1")
                self.assertIn(f"{name} cannot be read", self.convert(dataset, fails=True))

    def test_help_needs_no_packages(self):
        for package in ("h5py", "matplotlib"):
            (self.out / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}')")
        for script in ("convert_lerobot.py", "plot_bench.py"):
            result = subprocess.run([sys.executable, PROJECT / "scripts" / script, "--help"], capture_output=True, text=True,
                                    env={**os.environ, "PYTHONPATH": str(self.out)})
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("--out" if "convert" in script else "OUT.png", result.stdout)

    def test_refusals(self):
        self.assertIn("meta/info.json", self.convert(self.out, fails=True))
        good = DATA / "v30_images"
        self.assertIn("no episode 7", self.convert(good, "--episodes", "1,7", fails=True))
        self.assertIn("0-9,12", self.convert(good, "--episodes", "x", fails=True))
        self.assertIn("KEY=NAME", self.convert(good, "--camera", "front", fails=True))
        self.assertIn("--state", self.convert(good, "--state", "qpos", fails=True))
        self.assertIn("own name", self.convert(good, "--camera", "observation.images.image=left_wrist_0_rgb", fails=True))

    def test_truncated_video(self):
        broken = self.out / "broken"
        shutil.copytree(DATA / "v21_videos", broken)
        video = next(broken.glob("videos/*/*/episode_000001.mp4"))
        video.write_bytes(video.read_bytes()[:300])
        self.assertIn("episode_000001.mp4", self.convert(broken, fails=True))
        self.assertFalse((self.out / "episode_000001.hdf5").exists())


if __name__ == "__main__":
    unittest.main()
