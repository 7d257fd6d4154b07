"""The node's chunk logic, its connection and its image conversion, without ROS."""

import pathlib
import sys
import types
import unittest

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import policy_node


def chunk(tick, horizon=10):
    return np.arange(horizon)[:, None] + 100.0 * tick


class ChunksTest(unittest.TestCase):
    def test_an_answer_that_is_late_starts_in_its_middle(self):
        chunks = policy_node.Chunks(execute=4)
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
        chunks = policy_node.Chunks(execute=2)
        for bad in (None, np.full((10, 1), np.nan)):
            self.assertTrue(chunks.wants_request())
            chunks.answer(bad)
            self.assertIsNone(chunks.step())
        self.assertTrue(chunks.wants_request())
        chunks.answer(chunk(2))
        self.assertEqual(chunks.step()[0], 200)

    def test_a_chunk_that_ran_out_gives_nothing(self):
        chunks = policy_node.Chunks(execute=9)
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

        server = policy_node.Server(Client, pause=0)
        with self.assertRaises(ConnectionRefusedError):
            server.infer(1.0)
        for problem, connections in ((RuntimeError("busy"), 2), (ConnectionError("gone"), 3)):
            with self.assertRaises(type(problem)):
                server.infer(problem)
            np.testing.assert_array_equal(server.infer(1.0), [[1.0]])
            self.assertEqual(len(made), connections)


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
