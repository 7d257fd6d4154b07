"""What robots in Python need of a policy server: one action per control tick, asked for on a thread of its own.

The plain receding horizon: the next chunk is requested after `execute` actions, while the old one goes on. Robots that want
ensembling, real-time chunking or hard timing use the C++ or C controller (docs/controller.md).
"""

import threading
import time

import numpy as np


class Chunks:
    """Which action belongs to which tick: action i of a chunk requested at tick s belongs to tick s + i."""

    def __init__(self, execute):
        self.execute = execute
        self.tick = 0
        self.start = 0
        self.actions = None
        self.asked_at = None  # the tick of the request under way
        self.next_request = 0

    def wants_request(self):
        if self.asked_at is not None or self.tick < self.next_request:
            return False
        self.asked_at = self.tick
        self.next_request = self.tick + self.execute
        return True

    def answer(self, actions):
        """`actions` [H, A], or None where inference failed: then the old chunk goes on and the next tick asks anew."""
        if actions is not None and np.all(np.isfinite(actions)):
            self.start, self.actions = self.asked_at, actions
        else:
            self.next_request = self.tick
        self.asked_at = None

    def step(self):
        """The action of this tick, or None where no chunk has one."""
        i = self.tick - self.start
        self.tick += 1
        return self.actions[i] if self.actions is not None and i < len(self.actions) else None


class Server:
    """The policy server. `connect` makes openpi's client; it is made anew after everything but an error that the server
    itself answers."""

    def __init__(self, connect, pause=1.0):
        self.connect = connect
        self.pause = pause
        self.client = None

    def infer(self, observation):
        """The actions [H, A]; waits, and raises what the client raises: not for the control loop's thread."""
        try:
            if self.client is None:
                self.client = self.connect()
            return np.asarray(self.client.infer(observation)["actions"])
        except RuntimeError:  # the server's own words
            raise
        except Exception:
            self.client = None
            time.sleep(self.pause)  # a server that is away is not called at the control rate
            raise


class PolicyLoop:
    def __init__(self, server, execute, report=print):
        self.server = server
        self.chunks = Chunks(execute)
        self.report = report
        self.lock = threading.Lock()

    def tick(self, observe):
        """The action of this tick, or None while there is none: the server is late, fails or is away. `observe()` makes the
        observation, on the other thread. `observe` None: there is nothing to see, so there is nothing to do either."""
        with self.lock:
            if observe is not None and self.chunks.wants_request():
                threading.Thread(target=self._infer, args=(observe,), daemon=True).start()
            action = self.chunks.step()
        return None if observe is None else action

    def _infer(self, observe):
        actions = None
        try:
            actions = self.server.infer(observe())
        except Exception as error:  # the loop goes on whatever the server says
            self.report(f"inference failed: {error}")
        with self.lock:
            self.chunks.answer(actions)
