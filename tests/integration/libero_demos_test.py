#!/usr/bin/env python3
"""What collecting LIBERO demonstrations draws at random and writes, without the simulator; the files are read back by
our own reader.

    tests/integration/libero_demos_test.py BUILD_DIR/bin/shallowpi-eval     needs numpy and h5py
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import h5py
import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))
from libero_demos import (Disturbance, NoFreePlace, Recording, Replaced, TaskFile, claim_folder, displacements, gap,  # noqa: E402
                          wilson)
from libero_layout import check_layout  # noqa: E402

EVAL = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else PROJECT / "build/bin/shallowpi-eval"
PROBLEM = {"problem_info": json.dumps({"language_instruction": "pick up the butter"}), "env_name": "n", "env_args": "{}",
           "macros_image_convention": "opengl", "bddl_file_name": "b", "bddl_file_content": "c"}


def recording(demo, length, render_every=1):
    """Numbers that tell demonstration, step and column."""
    rng = np.random.default_rng(demo)
    made = Recording("<mujoco/>")
    for step in range(length):
        row = lambda width: demo + step / 100 + np.arange(width) / 1e4  # noqa: E731
        frames = [rng.integers(0, 256, (128, 128, 3), np.uint8) for _ in range(2)]
        made.add(states=row(47), actions=np.clip(row(7), -1, 1) if demo else row(7), robot_states=row(9), ee_states=row(6),
                 gripper_states=row(2), joint_states=row(7), agentview_rgb=frames[0], eye_in_hand_rgb=frames[1],
                 drawn=step % render_every == 0)
    return made


class Draws(unittest.TestCase):
    def test_disturbance_is_stationary_and_persistent(self):
        process = Disturbance(np.random.default_rng(1), 0.18)
        values = np.stack([process.next() for _ in range(20000)])
        np.testing.assert_array_equal(values[:, 3:], 0)
        np.testing.assert_allclose(values[:, :3].std(axis=0), 0.18, atol=0.01)
        np.testing.assert_allclose(values[:, :3].mean(axis=0), 0, atol=0.02)
        for column in values[:, :3].T:
            self.assertAlmostEqual(np.corrcoef(column[:-1], column[1:])[0, 1], 0.85, delta=0.02)
        first = np.stack([Disturbance(np.random.default_rng(i), 0.18).next()[:3] for i in range(2000)])
        self.assertAlmostEqual(first.std(), 0.18, delta=0.01)

    def test_disturbance_repeats_for_a_seed_and_can_be_off(self):
        a, b = (Disturbance(np.random.default_rng(7), 0.2) for _ in range(2))
        for _ in range(5):
            np.testing.assert_array_equal(a.next(), b.next())
        off = Disturbance(np.random.default_rng(7), 0.0)
        self.assertEqual([off.next().any() for _ in range(5)], [False] * 5)

    def test_displacements_keep_on_the_table_and_apart(self):
        boxes = [(0, 0, 0.1, 0.1), (0.13, 0, 0.23, 0.1), (0.105, 0.2, 0.2, 0.3)]
        fixed = [(-0.2, 0, -0.03, 0.1)]
        table = (-0.5, -0.01, 0.5, 0.5)
        drawn = []
        for seed in range(300):
            shifts = displacements(np.random.default_rng(seed), boxes, fixed, 0.03, table)
            self.assertLessEqual(np.abs(shifts).max(), 0.03)
            moved = [np.asarray(box) + np.tile(shift, 2) for box, shift in zip(boxes, shifts)]
            for i, box in enumerate(moved):
                self.assertGreaterEqual(box[1], -0.01)
                for other in [*moved[:i], *map(np.asarray, fixed)]:
                    self.assertGreaterEqual(gap(box, other), 0.02 - 1e-9)
            drawn.append(shifts)
        free = np.array(drawn)[:, 2, 0]  # has no neighbour close by: uniform
        self.assertAlmostEqual(free.std(), 0.03 / np.sqrt(3), delta=0.002)
        again = displacements(np.random.default_rng(5), boxes, fixed, 0.03, table)
        np.testing.assert_array_equal(again, drawn[5])

    def test_neighbours_that_touch_may_stay_as_they_are_but_not_closer(self):
        boxes = [(0, 0, 0.1, 0.1), (0.1, 0, 0.2, 0.1)]
        for seed in range(50):
            a, b = displacements(np.random.default_rng(seed), boxes, [], 0.02)
            self.assertGreaterEqual(gap(boxes[0] + np.tile(a, 2), boxes[1] + np.tile(b, 2)), -1e-9)

    def test_no_room(self):
        with self.assertRaisesRegex(NoFreePlace, "displace less"):
            displacements(np.random.default_rng(0), [(0, 0, 1, 1)], [], 0.1, table=(0.2, 0.2, 0.8, 0.8))

    def test_wilson(self):  # scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(wilson(9, 10), (0.59585, 0.98212), atol=1e-5)
        np.testing.assert_allclose(wilson(0, 10), (0, 0.27753), atol=1e-5)
        np.testing.assert_allclose(wilson(10, 10), (0.72247, 1), atol=1e-5)


class Files(unittest.TestCase):
    def setUp(self):
        self.out = pathlib.Path(tempfile.mkdtemp(prefix="shallowpi-demos-"))
        self.addCleanup(shutil.rmtree, self.out)
        self.file = TaskFile(self.out, "pick_up_the_butter")

    def collect(self, episodes, lengths):
        for index in self.file.missing(episodes):
            self.file.write_part(index, recording(index, lengths[index]))
        self.file.merge(episodes, PROBLEM)

    def test_layout_and_our_reader(self):
        lengths = [6, 7, 5, 6, 7, 8, 9, 10, 6, 7, 8]
        self.collect(11, lengths)
        self.assertEqual(check_layout(self, self.file.path), {f"demo_{i}": n for i, n in enumerate(lengths)})
        self.assertEqual([path.name for path in self.out.iterdir()], ["pick_up_the_butter_demo.hdf5"])
        report = self.out / "report.json"
        result = subprocess.run([EVAL, "offline", "--checkpoint", PROJECT / "configs/quickstart/teacher", "--data",
                                 self.file.path, "--frames", "1000", "--out", report], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        # The first action of a raw file was executed before its first observation, so that it is paired with none.
        self.assertEqual(json.loads(report.read_text())["frames"], sum(lengths) - len(lengths))

    def test_cut(self):
        """cut_demos.py: fewer demonstrations, smaller images, and still only the frames that were drawn."""
        for index in range(3):
            self.file.write_part(index, recording(index, 12, render_every=3))
        self.file.merge(3, PROBLEM)
        cut = self.out / "cut.hdf5"
        subprocess.run([sys.executable, PROJECT / "scripts/cut_demos.py", self.file.path, "--demos", "2", "--size", "64", "--out",
                        cut], check=True, capture_output=True)
        with h5py.File(cut, "r") as file:
            self.assertEqual(set(file["data"]), {"demo_0", "demo_1"})
            self.assertEqual(file["data/demo_1/obs/agentview_rgb"].shape, (12, 64, 64, 3))
        for option, problem in (("--out", "is a folder"), ("--size", "must divide")):
            refused = subprocess.run([sys.executable, PROJECT / "scripts/cut_demos.py", self.file.path, "--out", self.out / "no",
                                      option, self.out if option == "--out" else "63"], capture_output=True, text=True)
            self.assertIn(problem, refused.stderr)
            self.assertNotIn("Traceback", refused.stderr)
        self.assertEqual([*self.out.parent.glob(f"{self.out.name}*.tmp"), *self.out.glob("*.tmp")], [])
        coded = self.out / "jpeg.hdf5"
        subprocess.run([sys.executable, PROJECT / "scripts/cut_demos.py", self.file.path, "--demos", "2", "--size", "128",
                        "--jpeg", "90", "--out", coded], check=True, capture_output=True)
        report = self.out / "report.json"
        for file in (cut, coded):
            subprocess.run([EVAL, "offline", "--checkpoint", PROJECT / "configs/quickstart/teacher", "--data", file, "--frames",
                            "0", "--out", report], check=True, capture_output=True)
            self.assertEqual(json.loads(report.read_text())["frames"], 2 * 4)

    def test_fewer_than_were_collected(self):
        """An interrupted collection that is finished with fewer demonstrations keeps the others for later."""
        lengths = [5, 6, 7]
        self.file.write_part(2, recording(2, 7))
        self.collect(2, lengths)
        self.assertEqual(check_layout(self, self.file.path), {"demo_0": 5, "demo_1": 6})
        self.assertEqual([part.name for part in self.file.parts.iterdir()], ["demo_2.hdf5"])
        self.assertEqual(self.file.missing(3), [])
        self.collect(3, lengths)
        check_layout(self, self.file.path)
        self.assertFalse(self.file.parts.exists())

    def test_interrupted_and_extended(self):
        lengths = [5, 6, 7]
        self.file.write_part(1, recording(1, 6))
        self.assertEqual(self.file.missing(2), [0])
        part = self.file.part(1).read_bytes()
        self.collect(2, lengths)
        self.assertEqual(self.file.missing(2), [])
        before = self.file.path.stat().st_mtime_ns
        self.collect(2, lengths)
        self.assertEqual(self.file.path.stat().st_mtime_ns, before)
        self.assertEqual(self.file.missing(3), [2])
        self.collect(3, lengths)
        check_layout(self, self.file.path)
        (self.out / "part.hdf5").write_bytes(part)
        with h5py.File(self.out / "part.hdf5") as old, h5py.File(self.file.path) as new:
            for key in ("actions", "states", "obs/eye_in_hand_rgb"):
                np.testing.assert_array_equal(old["data/demo_1"][key][:], new["data/demo_1"][key][:])

    def test_a_failed_write_leaves_nothing(self):
        with self.assertRaises(RuntimeError), Replaced(self.file.path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
        self.assertEqual(list(self.out.iterdir()), [])

    def test_other_settings_are_refused(self):
        self.assertIsNone(claim_folder(self.out, {"seed": 2}))  # of which nothing came
        self.file.write_part(1, recording(1, 6))
        (self.out / "collection.json").unlink()
        self.assertIn("no collection.json", claim_folder(self.out, {"seed": 0, "disturb": 0.18}))
        (self.out / "collection.json").write_text('{"seed": 0, "disturb": 0.18}')
        self.assertIsNone(claim_folder(self.out, {"seed": 0, "disturb": 0.18}))
        self.assertIsNone(claim_folder(self.out, {"seed": 0, "disturb": 0.18}))
        self.assertIn("seed 0, not 1", claim_folder(self.out, {"seed": 1, "disturb": 0.18}))
        self.assertIn("disturb 0.18, not None", claim_folder(self.out, {"seed": 0}))

    def test_demonstrations_of_somebody_else_are_refused(self):
        (self.out / "pick_up_the_butter_demo.hdf5").touch()
        self.assertIn("no collection.json", claim_folder(self.out, {"seed": 0}))
        self.assertFalse((self.out / "collection.json").exists())

    def test_folder_of_two_processes(self):
        self.assertIsNone(claim_folder(self.out, {"seed": 0}))
        other = "import sys; sys.path.insert(0, sys.argv[1]); from libero_demos import claim_folder; print(claim_folder(sys.argv[2], {'seed': 0}))"
        said = subprocess.run([sys.executable, "-c", other, PROJECT / "scripts", self.out], check=True, capture_output=True, text=True)
        self.assertIn(f"another collection is under way in {self.out}", said.stdout)


# An episode of a second, without the simulator.
COLLECTOR = """
import pathlib, sys, time, types
sys.path.insert(0, sys.argv[1])
import collect_libero_demos as collector
collector.Simulator = lambda suite, policy: None

def episode(folder):
    pathlib.Path(folder, "begun").touch()
    time.sleep(1)
    pathlib.Path(folder, "kept").touch()

if __name__ == "__main__":
    list(collector.run(episode, [sys.argv[2]], types.SimpleNamespace(workers=1, suite="libero_object", policy=None)))
"""


class Interruption(unittest.TestCase):
    def test_it_waits_for_the_episode_under_way(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="shallowpi-collect-"))
        self.addCleanup(shutil.rmtree, folder)
        (folder / "collector.py").write_text(COLLECTOR)
        command = [sys.executable, folder / "collector.py", PROJECT / "scripts", folder]
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        self.addCleanup(process.kill)
        end = time.monotonic() + 60
        while not (folder / "begun").exists():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C, to the workers too
        self.assertNotEqual(process.wait(timeout=60), 0)
        self.assertTrue((folder / "kept").exists())


if __name__ == "__main__":
    unittest.main()
