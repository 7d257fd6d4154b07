"""The examples without ROS, LeRobot and a robot."""

import pathlib
import sys
import threading
import types
import unittest

import numpy as np

EXAMPLES = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(EXAMPLES / folder) for folder in (".", "ros2", "lerobot", "../scripts")]
import convert_lerobot  # noqa: E402
import policy_loop  # noqa: E402
import policy_node  # noqa: E402
import run_robot  # noqa: E402


def chunk(tick, horizon=10):
    return np.arange(horizon)[:, None] + 100.0 * tick


class StaleTest(unittest.TestCase):
    def test_names_what_is_missing_or_old(self):
        self.assertEqual(policy_node.stale({}, 10.0, 0.5), ["image", "wrist", "state"])
        latest = {"image": (None, 9.8), "wrist": (None, 9.4), "state": (None, 10.0)}
        self.assertEqual(policy_node.stale(latest, 10.0, 0.5), ["wrist"])
        self.assertEqual(policy_node.stale(latest, 10.0, 0.7), [])


class ChunksTest(unittest.TestCase):
    def test_an_answer_that_is_late_starts_in_its_middle(self):
        chunks = policy_loop.Chunks(execute=4)
        seen, asked = [], None
        for tick in range(11):
            if asked is not None and tick == asked + 3:
                chunks.answer(chunk(asked))
            if chunks.wants_request():
                asked = tick
            action = chunks.step()
            seen.append(None if action is None else action[0])
        self.assertEqual(seen, [None] * 3 + [3, 4, 5, 6] + [403, 404, 405, 406])

    def test_failed_and_non_finite_answers_keep_the_old_chunk_and_ask_again(self):
        chunks = policy_loop.Chunks(execute=2)
        for bad in (None, np.full((10, 1), np.nan)):
            self.assertTrue(chunks.wants_request())
            chunks.answer(bad)
            self.assertIsNone(chunks.step())
        self.assertTrue(chunks.wants_request())
        chunks.answer(chunk(2))
        self.assertEqual(chunks.step()[0], 200)

    def test_a_chunk_that_ran_out_gives_nothing(self):
        chunks = policy_loop.Chunks(execute=9)
        chunks.wants_request()
        chunks.answer(chunk(0, horizon=2))
        self.assertEqual([a is None for a in (chunks.step(), chunks.step(), chunks.step())], [False, False, True])


class ServerTest(unittest.TestCase):
    def test_a_lost_connection_is_made_anew_and_an_error_answer_keeps_it(self):
        made = []

        class Client:
            def __init__(self):
                made.append(self)
                if len(made) == 1:
                    raise ConnectionRefusedError("the server is not there yet")

            def infer(self, observation):
                if isinstance(observation, Exception):
                    raise observation
                return {"actions": [[observation]]}

        server = policy_loop.Server(Client, pause=0)
        with self.assertRaises(ConnectionRefusedError):
            server.infer(1.0)
        for problem, connections in ((RuntimeError("busy"), 2), (ConnectionError("gone"), 3)):
            with self.assertRaises(type(problem)):
                server.infer(problem)
            np.testing.assert_array_equal(server.infer(1.0), [[1.0]])
            self.assertEqual(len(made), connections)


class LoopTest(unittest.TestCase):
    def test_the_server_is_asked_on_another_thread_and_a_blind_robot_does_nothing(self):
        asked, answers = threading.Event(), threading.Event()

        class Slow:
            def infer(self, observation):
                asked.set()
                answers.wait(10)
                return chunk(observation, horizon=5)

        loop = policy_loop.PolicyLoop(Slow(), execute=9)
        self.assertIsNone(loop.tick(lambda: 3))
        self.assertTrue(asked.wait(10))
        self.assertIsNone(loop.tick(lambda: 4))
        answers.set()
        while loop.chunks.asked_at is not None:
            pass
        self.assertEqual(loop.tick(lambda: 5)[0], 302)
        self.assertIsNone(loop.tick(None))
        self.assertEqual(loop.tick(lambda: 6)[0], 304)

    def test_a_failure_is_reported_and_the_next_tick_asks_again(self):
        said = []

        class Failing:
            def infer(self, observation):
                raise RuntimeError("busy")

        loop = policy_loop.PolicyLoop(Failing(), execute=9, report=said.append)
        for tick in range(2):
            self.assertIsNone(loop.tick(lambda: 0))
            while loop.chunks.asked_at is not None:
                pass
        self.assertEqual(said, ["inference failed: busy"] * 2)


class LeRobotTest(unittest.TestCase):
    FEATURES = {"pan.pos": float, "lift.pos": float, "front": (4, 6, 3), "front_depth": (4, 6, 1), "side": (4, 6, 3)}

    def test_observation(self):
        seen = {"side": "picture 2", "lift.pos": 2.0, "pan.pos": 1.0, "front": "picture 1", "front_depth": "?"}
        observation = run_robot.observation_of(seen, self.FEATURES, {}, "fold")
        np.testing.assert_array_equal(observation.pop("observation/state"), np.array([1, 2], np.float32))
        self.assertEqual(observation, {"observation/image": "picture 1", "observation/side": "picture 2", "prompt": "fold"})
        observation = run_robot.observation_of(seen, self.FEATURES, {"side": "observation/wrist_image"}, "fold")
        self.assertEqual(observation["observation/wrist_image"], "picture 2")
        with self.assertRaisesRegex(ValueError, "front, side would be sent as the same"):
            run_robot.observation_of(seen, self.FEATURES, {"side": "observation/image"}, "fold")

    def test_cameras_are_those_of_the_converter(self):
        keys = {"base_0_rgb": "observation/image", "left_wrist_0_rgb": "observation/wrist_image",
                "right_wrist_0_rgb": "observation/wrist_image_right"}
        self.assertEqual(run_robot.CAMERA_KEYS, {name: keys[ours] for name, ours in convert_lerobot.CAMERA_NAMES.items()})

    def test_action(self):
        names = {"pan.pos": float, "lift.pos": float}
        self.assertEqual(run_robot.action_of(np.array([0.5, 2], np.float32), names), {"pan.pos": 0.5, "lift.pos": 2.0})
        with self.assertRaisesRegex(ValueError, "3 action dims, the robot 2: pan.pos, lift.pos"):
            run_robot.action_of(np.zeros(3), names)


class ImageTest(unittest.TestCase):
    def test_rows_may_be_padded_and_bgr(self):
        rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        padded = np.zeros((2, 8), np.uint8)
        padded[:, :6] = rgb[..., ::-1].reshape(2, 6)
        message = types.SimpleNamespace(encoding="bgr8", height=2, width=2, step=8, data=padded.tobytes())
        np.testing.assert_array_equal(policy_node.image_array(message), rgb)
        message.encoding = "mono8"
        with self.assertRaisesRegex(ValueError, "mono8"):
            policy_node.image_array(message)


if __name__ == "__main__":
    unittest.main()
