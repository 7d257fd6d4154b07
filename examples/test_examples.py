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


def chunk_of(tick, horizon):
    """That of tests/runtime/action_chunking_test.cpp: action i is [1000 tick + i, tick]."""
    return np.stack([1000.0 * tick + np.arange(horizon), np.full(horizon, float(tick))], axis=1)


class Simulated:
    """Chunks under a simulated clock: the request of tick s is answered `delay(s)` ticks later."""

    def __init__(self, chunks, horizon, delay=lambda tick: 0, answers=chunk_of):
        self.chunks, self.horizon, self.delay, self.answers = chunks, horizon, delay, answers
        self.requests = {}  # by tick: the prefix
        self.refused = []

    def answer_due(self):
        asked = self.chunks.asked_at
        if asked is not None and self.chunks.tick == asked + self.delay(asked):
            try:
                self.chunks.answer(self.answers(asked, self.horizon))
            except ValueError as error:
                self.refused.append(str(error))
                self.chunks.failed()

    def steps(self, ticks):
        actions = []
        for _ in range(ticks):
            self.answer_due()
            if self.chunks.wants_request():
                self.requests[self.chunks.tick] = self.chunks.prefix()
                self.answer_due()
            actions.append(self.chunks.step())
        return actions


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
        for bad, why in ((None, ""), (np.full((10, 1), np.nan), "not finite"), (np.zeros(10), r"\[H, A\], not \[10\]"),
                         (np.zeros((0, 7)), r"\[H, A\], not \[0, 7\]")):
            self.assertTrue(chunks.wants_request())
            if bad is not None:
                with self.assertRaisesRegex(ValueError, why):
                    chunks.answer(bad)
            chunks.failed()
            self.assertIsNone(chunks.step())
        self.assertTrue(chunks.wants_request())
        chunks.answer(chunk(4))
        self.assertEqual(chunks.step()[0], 400)

    def test_a_chunk_that_ran_out_gives_nothing(self):
        chunks = policy_loop.Chunks(execute=9)
        chunks.wants_request()
        chunks.answer(chunk(0, horizon=2))
        self.assertEqual([a is None for a in (chunks.step(), chunks.step(), chunks.step())], [False, False, True])


    def test_refuses_options_out_of_range(self):
        for options, why in (({"execute": 7, "chunking": "act"}, "'act' is not known; use receding, ensemble or rtc"),
                             ({"execute": 0}, "execute 0 must be at least 1"),
                             ({"execute": 7, "decay": np.nan}, "decay nan finite")):
            with self.assertRaisesRegex(ValueError, why):
                policy_loop.Chunks(**options)


class ControllersNumbersTest(unittest.TestCase):
    """The inputs and the numbers of tests/runtime/action_chunking_test.cpp."""

    def simulated(self, chunking, execute, horizon, delay=0, **options):
        return Simulated(policy_loop.Chunks(execute, chunking, **options), horizon, lambda tick: delay)

    def test_receding(self):
        loop = self.simulated("receding", execute=3, horizon=5)
        self.assertEqual([a[0] for a in loop.steps(7)], [0, 1, 2, 3000, 3001, 3002, 6000])
        self.assertEqual(loop.requests, {0: None, 3: None, 6: None})
        loop = self.simulated("receding", execute=4, horizon=8, delay=3)
        values = loop.steps(12)
        self.assertEqual(values[:3], [None] * 3)
        self.assertEqual([a[0] for a in values[3:]], [3, 4, 5, 6, 4003, 4004, 4005, 4006, 8003])
        loop = self.simulated("receding", execute=2, horizon=9, delay=5)  # one action short of what the delay needs
        values = loop.steps(16)
        self.assertEqual(list(loop.requests), [0, 5, 10, 15])
        self.assertEqual([tick for tick in range(5, 16) if values[tick] is None], [9, 14])

    def test_ensemble_weighs_by_age(self):
        loop = self.simulated("ensemble", execute=1, horizon=3, decay=0.5)
        first, second, third, fourth = loop.steps(4)
        e1, e2 = np.exp(-0.5), np.exp(-1)
        np.testing.assert_allclose(second[0], (1 + 1000 * e1) / (1 + e1), atol=1e-3)
        np.testing.assert_allclose(third[0], (2 + 1001 * e1 + 2000 * e2) / (1 + e1 + e2), atol=1e-3)
        np.testing.assert_allclose(third[0], 681.1635, atol=1e-3)
        self.assertEqual(len(loop.chunks.chunks), 3)  # chunk 0 has ended
        np.testing.assert_allclose(fourth[0], (1002 + 2001 * e1 + 3000 * e2) / (1 + e1 + e2))
        self.assertEqual(set(loop.requests.values()), {None})
        # ACT's own m is the default.
        default = self.simulated("ensemble", execute=1, horizon=3).steps(2)[1][0]
        np.testing.assert_allclose(default, (1 + 1000 * np.exp(-0.01)) / (1 + np.exp(-0.01)))

    def test_no_weight_overflows(self):
        for decay, value in ((-1000.0, 2000), (1000.0, 2)):  # the newest chunk alone, or the oldest
            self.assertEqual(self.simulated("ensemble", execute=1, horizon=3, decay=decay).steps(3)[2][0], value)

    def test_ensemble_of_equal_plans_is_that_plan(self):
        loop = self.simulated("ensemble", execute=2, horizon=8, delay=1)
        loop.answers = lambda tick, horizon: np.tile([0.25, -1.0], (horizon, 1))
        np.testing.assert_allclose(loop.steps(20)[1:], np.tile([0.25, -1.0], (19, 1)), rtol=1e-15)

    def test_rtc_sends_what_will_be_executed_meanwhile(self):
        loop = self.simulated("rtc", execute=4, horizon=12, delay=3)
        executed = loop.steps(12)
        self.assertEqual([a[0] for a in executed[3:]], [3, 4, 5, 6, 4003, 4004, 4005, 4006, 8003])  # never blended
        self.assertEqual(list(loop.requests), [0, 4, 8])
        self.assertEqual(loop.requests[0], [])  # nothing is executed before the first chunk
        for tick in (4, 8):
            np.testing.assert_array_equal(loop.requests[tick], executed[tick:tick + 3])

    def test_rtc_ends_the_prefix_with_the_chunk(self):
        loop = self.simulated("rtc", execute=2, horizon=7, delay=4)
        loop.steps(9)
        self.assertEqual(list(loop.requests), [0, 4, 8])
        np.testing.assert_array_equal(loop.requests[4], [[4, 0], [5, 0], [6, 0]])
        self.assertEqual(len(loop.requests[8]), 3)

    def test_rtc_takes_the_longest_of_ten_delays(self):
        for slow, longest in ((4, 4), (60, 4), (30, 30), (48, 43)):
            with self.subTest(slow=slow):
                loop = self.simulated("rtc", execute=7, horizon=50)
                loop.delay = lambda tick: slow if 100 < tick < 107 else 4
                loop.steps(400)
                lengths = [len(prefix) for prefix in loop.requests.values()]
                self.assertEqual(max(lengths), longest)
                self.assertEqual(lengths[-1], 4)  # ten answers later the slow one is forgotten
                # One that came too late to be used counts for nothing.
                self.assertEqual(loop.refused, ["the answer took 60 ticks, and a chunk lasts only 50"] * (slow == 60))

    def test_an_answer_of_the_past_is_asked_for_again(self):
        loop = self.simulated("ensemble", execute=1, horizon=2, delay=2)
        self.assertEqual(loop.steps(4), [None] * 4)
        self.assertEqual(loop.refused, ["the answer took 2 ticks, and a chunk lasts only 2"])
        self.assertEqual(list(loop.requests), [0, 2])

    def test_bad_answers_leave_the_old_chunk_in_force(self):
        loop = self.simulated("receding", execute=2, horizon=8)
        with_nan = chunk_of(3, 8)
        with_nan[7, 1] = np.nan
        instead = {2: np.zeros(0), 3: with_nan, 4: np.ones((8, 1))}
        loop.answers = lambda tick, horizon: instead.get(tick, chunk_of(tick, horizon))
        self.assertEqual([a[0] for a in loop.steps(6)], [0, 1, 2, 3, 4, 5000])
        self.assertEqual(list(loop.requests), [0, 2, 3, 4, 5])
        self.assertEqual(loop.refused[1:], ["the policy's actions are not finite",
                                            "the policy's actions have 1 dims, before 2"])


class ServerTest(unittest.TestCase):
    def test_a_lost_connection_is_made_anew_and_an_error_answer_keeps_it(self):
        made = []

        class Client:
            def __init__(self):
                made.append(self)
                if len(made) == 1:
                    raise ConnectionRefusedError("the server is not there yet")

            def get_server_metadata(self):
                return {"control_hz": 20.0}

            def infer(self, observation):
                if isinstance(observation, Exception):
                    raise observation
                return {"actions": [[observation]]}

        said = []
        server = policy_loop.Server(Client, 30, said.append, pause=0)
        with self.assertRaises(ConnectionRefusedError):
            server.infer(1.0)
        for problem, connections in ((RuntimeError("busy"), 2), (ConnectionError("gone"), 3)):
            with self.assertRaises(type(problem)):
                server.infer(problem)
            np.testing.assert_array_equal(server.infer(1.0), [[1.0]])
            self.assertEqual(len(made), connections)
        self.assertEqual(said, ["the policy learned from 20 actions per second, and executes 30 here"] * 2)

    def rtc_server(self, metadata):
        class Client:
            def get_server_metadata(self):
                return metadata

            def infer(self, observation):
                self.seen = observation
                return {"actions": chunk_of(0, 50)}

        return policy_loop.Server(Client, 30, self.fail, pause=0)

    def test_rtc_sends_as_many_actions_as_the_policy_learned_to_continue(self):
        server = self.rtc_server({"rtc_training_max_delay": 6})
        given = list(chunk_of(1, 30))
        for prefix, sent in ((given, given[:6]), (given[:4], given[:4])):
            server.infer({"prompt": "fold"}, prefix)
            np.testing.assert_array_equal(server.client.seen.pop("prefix_actions"), sent)
            self.assertEqual(server.client.seen, {"prompt": "fold"})
        for prefix in ([], None):
            server.infer({"prompt": "fold"}, prefix)
            self.assertEqual(server.client.seen, {"prompt": "fold"})

    def test_rtc_is_refused_where_the_metadata_does_not_offer_it(self):
        for metadata in ({}, {"action_horizon": 50}):
            server = self.rtc_server(metadata)
            with self.assertRaisesRegex(ValueError, "no rtc_training_max_delay.*use receding or ensemble, or train"):
                server.infer({}, [])  # at the first request, before the robot moves
            server.infer({})


class LoopTest(unittest.TestCase):
    def test_the_server_is_asked_on_another_thread_and_a_blind_robot_does_nothing(self):
        asked, answers = threading.Event(), threading.Event()

        class Slow:
            def infer(self, observation, prefix):
                asked.set()
                answers.wait(10)
                return chunk(observation, horizon=5)

        loop = policy_loop.PolicyLoop(Slow(), policy_loop.Chunks(execute=9))
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
            def infer(self, observation, prefix):
                raise RuntimeError("busy")

        loop = policy_loop.PolicyLoop(Failing(), policy_loop.Chunks(execute=9), said.append)
        for tick in range(2):
            self.assertIsNone(loop.tick(lambda: 0))
            while loop.chunks.asked_at is not None:
                pass
        self.assertEqual(said, ["inference failed: busy"] * 2)

    def test_an_answer_that_cannot_be_used_is_reported(self):
        said = []
        server = types.SimpleNamespace(infer=lambda observation, prefix: np.full((5, 1), np.inf))
        loop = policy_loop.PolicyLoop(server, policy_loop.Chunks(execute=9), said.append)
        self.assertIsNone(loop.tick(lambda: 0))
        while loop.chunks.asked_at is not None:
            pass
        self.assertEqual(said, ["inference failed: the policy's actions are not finite"])

    def test_rtc_gives_the_server_what_the_robot_does_meanwhile(self):
        asked, prefixes, answer = threading.Event(), [], threading.Event()

        class Slow:
            def infer(self, observation, prefix):
                prefixes.append(prefix)
                asked.set()
                answer.wait(10)
                answer.clear()
                return chunk(observation, horizon=20)

        def tick_until_answered(loop, ticks):
            asked.clear()
            actions = [loop.tick(lambda: 0) for _ in range(ticks)]
            self.assertTrue(asked.wait(10))
            answer.set()
            while loop.chunks.asked_at is not None:
                pass
            return actions

        loop = policy_loop.PolicyLoop(Slow(), policy_loop.Chunks(execute=3, chunking="rtc"))
        self.assertEqual(tick_until_answered(loop, 3), [None] * 3)
        executed = tick_until_answered(loop, 3)
        self.assertEqual(prefixes[0], [])
        np.testing.assert_array_equal(prefixes[1], executed)


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
