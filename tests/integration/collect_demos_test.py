#!/usr/bin/env python3
"""Collects demonstrations in the real simulator and looks at what is in them; about 60 s.

    tests/integration/collect_demos_test.py     with the simulator's python: $(scripts/setup_libero.sh)
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np
from libero_layout import check_layout
from serving import Server

PROJECT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "scripts" / "collect_libero_demos.py"
SERVE = [PROJECT / "build/bin/shallowpi-infer", "serve", "--checkpoint", PROJECT / "configs/quickstart/teacher", "--threads", "1"]
BUTTER = "pick_up_the_butter_and_place_it_in_the_basket_demo.hdf5"


class CollectDemos(unittest.TestCase):
    def setUp(self):
        self.out = pathlib.Path(tempfile.mkdtemp(prefix="shallowpi-collect-"))
        self.addCleanup(shutil.rmtree, self.out)

    def collect(self, *options, fails=False):
        result = subprocess.run([sys.executable, SCRIPT, "--out", self.out, *options], capture_output=True, text=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.assertEqual(result.returncode != 0, fails, result.stderr)
        return result.stderr if fails else result.stdout

    def test_one_demonstration(self):
        options = ("--suite", "libero_object", "--tasks", "6", "--episodes", "1", "--missed", "1", "--render-every", "2")
        self.collect(*options)
        path = self.out / BUTTER
        length = check_layout(self, path, more=["obs/drawn"])["demo_0"]
        self.assertTrue(60 < length < 400, length)
        with h5py.File(path) as file:
            self.check_numbers(file["data/demo_0"])
            self.check_images(file["data/demo_0/obs"])
            self.check_repeats(file["data/demo_0/obs"])
            self.assertLess(file["data/demo_0/obs/gripper_states"][0, 0], 0.01)  # shut on nothing
        written = path.stat().st_mtime_ns
        self.collect(*options)  # nothing is missing
        self.assertEqual(path.stat().st_mtime_ns, written)
        self.assertIn("seed 0, not 1", self.collect(*options, "--seed", "1", fails=True))

    def check_numbers(self, demo):
        actions, states, hand = demo["actions"][:], demo["states"][:], demo["obs/ee_pos"][:]
        np.testing.assert_allclose(np.diff(states[:, 0]), 0.05, atol=1e-9)  # the simulator's time: no step is missing
        self.assertLessEqual(np.abs(actions).max(), 1)
        self.assertEqual(set(np.unique(actions[:, 6])), {-1.0, 1.0})
        gripper = actions[:, 6]
        self.assertEqual((gripper[0], gripper[-1]), (-1, -1))  # opens again before the end
        # The hand goes where the label says, on the whole; it is disturbed, so not exactly.
        moved, wanted = np.diff(hand, axis=0)[1:], actions[1:-1, :3]
        for axis in range(3):
            agreement = np.corrcoef(moved[:, axis], wanted[:, axis])[0, 1]
            self.assertTrue(0.6 < agreement < 0.999, agreement)

    def check_images(self, obs):
        for name in ("agentview_rgb", "eye_in_hand_rgb"):
            frames = obs[name][:].astype(float)
            self.assertGreater(frames.std(axis=(1, 2, 3)).min(), 15, name)  # something is drawn in each
            self.assertGreater(np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).max(), 1, name)  # and it moves
        # OpenGL's row order: the floor with its light boards is at the top, the dark wall at the bottom.
        scene = obs["agentview_rgb"][0].mean(axis=(1, 2))
        self.assertGreater(scene[:100].mean(), scene[-20:].mean())

    def check_repeats(self, obs):
        drawn = obs["drawn"][:, 0]
        np.testing.assert_array_equal(drawn, np.arange(len(drawn)) % 2 == 0)
        for name in ("agentview_rgb", "eye_in_hand_rgb"):
            changed = np.abs(np.diff(obs[name][:].astype(int), axis=0)).max(axis=(1, 2, 3)) > 0
            self.assertFalse(changed[0::2].any(), name)
            self.assertGreater(changed[1::2].mean(), 0.9, name)

    def test_where_a_policy_has_led(self):
        options = ("--suite", "libero_object", "--tasks", "6", "--episodes", "1", "--render-every", "50", "--seed", "6",
                   "--led-at-least", "60")
        with Server([*SERVE, "--port", "0"]) as server:
            self.collect(*options, "--policy", server.url)
            first = self.out.with_name(self.out.name + "-first")
            self.out.rename(first)
            self.addCleanup(shutil.rmtree, first)
            self.collect(*options, "--policy", server.url)
        with h5py.File(first / BUTTER) as one, h5py.File(self.out / BUTTER) as other:
            one, other = one["data/demo_0"], other["data/demo_0"]
            np.testing.assert_array_equal(one["states"][:], other["states"][:])
            self.assertGreater(one["states"][0, 0], 60 * 0.05)  # s
        self.assertIn("shallowpi-infer serve", self.collect(*options, "--policy", server.url, fails=True))

    def test_bad_input(self):
        self.assertIn("--tasks 12", self.collect("--tasks", "12", fails=True))
        self.assertIn("--disturb", self.collect("--disturb", "3", fails=True))
        self.assertIn("goes with --policy", self.collect("--led-at-least", "9", fails=True))
        self.assertIn("between 0 and 279", self.collect("--led-at-least", "280", "--policy", "ws://localhost:1", fails=True))
        self.assertIn("picking and placing", self.collect("--suite", "libero_goal", "--tasks", "7", fails=True))


if __name__ == "__main__":
    unittest.main()
