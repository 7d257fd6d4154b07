"""Speaks libero_worker.py's protocol without a simulator. Its world: the state is [tick, task, init, seed, sums of the
first two action dims, 0, 0], and an even initial state succeeds at tick 12 + task. An object moves by [0, 1] per tick. All
bytes of the scene's image are 1, of the wrist's 2.

From the environment: FAKE_DIE, FAKE_HANG: the chance, per request, to die or to hang; FAKE_AT: only at this command;
FAKE_DEATHS: a folder, of which each request takes a file and dies, while there is one; FAKE_ERROR: answer every request with an
error of that kind; FAKE_LOG: a folder for the actions of each finished episode."""

import argparse
import json
import os
import random
import socket
import struct
import sys
import time

TASKS = [{"name": f"task_{i}", "language": f"do task {i}", "init_states": 4} for i in range(3)]


class World:
    def describe(self, request):
        for name in request["suites"]:
            if name != "libero_object":
                raise ValueError(f"there is no suite '{name}'; valid are libero_object")
        return {"suites": {name: TASKS for name in request["suites"]}}, b""

    def reset(self, request):
        self.reset_request, self.actions, self.sums = request, [], [0.0, 0.0]
        return self.answer(0, request["render"], 0, {"perturbation": {"displaced": {}, "velocity": {}}})

    def done(self):
        return self.reset_request["init"] % 2 == 0 and len(self.actions) >= 12 + self.reset_request["task"]

    def step(self, request):
        executed = 0
        for action in request["actions"]:
            self.actions.append(action)
            self.sums = [s + a for s, a in zip(self.sums, action)]
            executed += 1
            if self.done():
                break
        if self.done() or len(self.actions) >= 40:
            self.log()
        frames = executed if self.reset_request["record"] else 0
        return self.answer(executed, request["render"] and not self.done(), frames, {})

    def log(self):
        if "FAKE_LOG" in os.environ:
            r = self.reset_request
            name = f"{r['task']}_{r['perturb_seed'][2]}_{os.getpid()}_{time.monotonic_ns()}.json"
            with open(os.path.join(os.environ["FAKE_LOG"], name), "w") as file:
                json.dump(self.actions, file)

    def answer(self, executed, render, frames, more):
        r = self.reset_request
        state = [len(self.actions), r["task"], r["init"], r["seed"], *self.sums, 0, 0]
        pixels = r["size"] ** 2
        payload = render * (b"\1" * 3 * pixels + b"\2" * 3 * pixels) + bytes(frames * 2 * 3 * pixels)
        return {"state": [float(x) for x in state], "offsets": {"soup_1": [0, len(self.actions)]}, "done": self.done(),
                "executed": executed, "images": render, "frames": frames, **more}, payload


def receive(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            sys.exit(0)
        data += part
    return data


def die():
    print("fake worker dies", flush=True)
    os._exit(9)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    connection = socket.socket(fileno=parser.parse_args().fd)
    world, chance = World(), random.Random()
    while True:
        size, _ = struct.unpack("<II", receive(connection, 8))
        request = json.loads(receive(connection, size))
        for death in os.scandir(os.environ["FAKE_DEATHS"]) if "FAKE_DEATHS" in os.environ else []:
            os.remove(death)
            die()
        if os.environ.get("FAKE_AT", request["cmd"]) == request["cmd"]:
            if chance.random() < float(os.environ.get("FAKE_DIE", 0)):
                die()
            if chance.random() < float(os.environ.get("FAKE_HANG", 0)):
                time.sleep(1000)
        if "FAKE_ERROR" in os.environ:
            answer, payload = {"error": "missing library libEGL", "kind": os.environ["FAKE_ERROR"]}, b""
        else:
            try:
                answer, payload = getattr(world, request["cmd"])(request)
            except ValueError as error:
                answer, payload = {"error": str(error), "kind": "usage"}, b""
        text = json.dumps(answer).encode()
        connection.sendall(struct.pack("<II", len(text), len(payload)) + text + payload)


main()
