"""What robots in Python need of a policy server: one action per control tick, asked for on a thread of its own.

The next chunk is requested after `execute` actions, while the old one goes on. docs/controller.md has the rules, and
the C++ and C controllers for robots that want hard timing.
"""

import collections
import threading
import time

import numpy as np


class Chunks:
    """Which action belongs to which tick: action i of a chunk requested at tick s belongs to tick s + i.

    `chunking` says which chunks an action is made of:
      receding  the newest one
      ensemble  all that have an action for the tick (ACT's ensembling): the i-th, oldest first, weighs exp(-decay i)
      rtc       the newest one, which continues what is executed while it is computed (real-time chunking)
    """

    def __init__(self, execute, chunking="receding", decay=0.01):
        if chunking not in ("receding", "ensemble", "rtc"):
            raise ValueError(f"chunking {chunking!r} is not known; use receding, ensemble or rtc")
        if execute < 1 or not np.isfinite(decay):
            raise ValueError(f"execute {execute} must be at least 1, and decay {decay} finite")
        self.execute, self.chunking, self.decay = execute, chunking, decay
        self.tick = 0
        self.chunks = []  # (start, actions [H, A]), oldest first
        self.delays = collections.deque(maxlen=10)  # of the last answers, in ticks
        self.asked_at = None  # the tick of the request under way
        self.next_request = 0

    def wants_request(self):
        if self.asked_at is not None or self.tick < self.next_request:
            return False
        self.asked_at = self.tick
        self.next_request = self.tick + self.execute
        return True

    def prefix(self):
        """What the request of this tick carries in rtc: the actions [D, A] that are executed before its answer arrives,
        D the longest of the last ten delays, or fewer where the chunk ends. None in the other modes."""
        if self.chunking != "rtc":
            return None
        actions = [self.planned(self.tick + i) for i in range(max(self.delays, default=0))]
        return [action for action in actions if action is not None]

    def answer(self, actions):
        """Takes the answer [H, A]. Raises where it cannot be used; then call failed()."""
        if actions.ndim != 2 or actions.size == 0:
            raise ValueError(f"the policy's actions should be [H, A], not {list(actions.shape)}")
        if not np.all(np.isfinite(actions)):
            raise ValueError("the policy's actions are not finite")
        if self.chunks and actions.shape[1] != self.chunks[-1][1].shape[1]:
            raise ValueError(f"the policy's actions have {actions.shape[1]} dims, before {self.chunks[-1][1].shape[1]}")
        delay = self.tick - self.asked_at
        if delay >= len(actions):
            raise ValueError(f"the answer took {delay} ticks, and a chunk lasts only {len(actions)}")
        self.delays.append(delay)
        going_on = [chunk for chunk in self.chunks if self.tick - chunk[0] < len(chunk[1])]
        self.chunks = (going_on if self.chunking == "ensemble" else []) + [(self.asked_at, actions)]
        self.asked_at = None

    def failed(self):
        """There is no answer: the old chunks go on and the next tick asks anew."""
        self.next_request = self.tick
        self.asked_at = None

    def planned(self, tick):
        """The action [A] that the chunks have for a tick from now on, or None where none has one."""
        actions = [actions[tick - start] for start, actions in self.chunks if tick - start < len(actions)]
        if not actions:
            return None
        weights = -self.decay * np.arange(len(actions))
        weights = np.exp(weights - weights.max())  # the heaviest is 1: none overflows
        return weights @ np.array(actions) / weights.sum()

    def step(self):
        """The action of this tick, or None where no chunk has one."""
        action = self.planned(self.tick)
        self.tick += 1
        return action


class Server:
    """The policy server. `connect` makes openpi's client; it is made anew after everything but an error that the server
    itself answers."""

    def __init__(self, connect, hz, report=print, pause=1.0):
        self.connect = connect
        self.hz = hz  # at which actions are executed
        self.report = report
        self.pause = pause
        self.client = None

    def infer(self, observation, prefix=None):
        """The actions [H, A]; waits, and raises what the client raises: not for the control loop's thread. `prefix`:
        the actions [D, A], D from 0, to continue (rtc); the server gets as many as its policy learned to continue."""
        try:
            if self.client is None:
                self.client = self.connect()
                learnt = self.client.get_server_metadata().get("control_hz", self.hz)
                if abs(learnt - self.hz) > 0.01 * learnt:
                    self.report(f"the policy learned from {learnt:g} actions per second, and executes {self.hz:g} here")
            if prefix is not None:
                most = self.client.get_server_metadata().get("rtc_training_max_delay", 0)
                if most < 1:
                    raise ValueError(
                        "chunking rtc: the server's metadata has no rtc_training_max_delay, so its policy did not "
                        "learn to continue actions; use receding or ensemble, or train it for that (docs/training.md)")
                if prefix:
                    observation = {**observation, "prefix_actions": np.array(prefix[:most])}
            return np.asarray(self.client.infer(observation)["actions"], float)
        except RuntimeError:  # the server's own words
            raise
        except Exception:
            self.client = None
            time.sleep(self.pause)  # a server that is away is not called at the control rate
            raise


class PolicyLoop:
    def __init__(self, server, chunks, report=print):
        self.server = server
        self.chunks = chunks
        self.report = report
        self.lock = threading.Lock()

    def tick(self, observe):
        """The action of this tick, or None while there is none: the server is late, fails or is away. `observe()` makes the
        observation, on the other thread. `observe` None: there is nothing to see, so there is nothing to do either."""
        with self.lock:
            if observe is not None and self.chunks.wants_request():
                threading.Thread(target=self._infer, args=(observe, self.chunks.prefix()), daemon=True).start()
            action = self.chunks.step()
        return None if observe is None else action

    def _infer(self, observe, prefix):
        try:
            actions = self.server.infer(observe(), prefix)
            with self.lock:
                self.chunks.answer(actions)
        except Exception as error:  # the loop goes on whatever the server says
            self.report(f"inference failed: {error}")
            with self.lock:
                self.chunks.failed()
