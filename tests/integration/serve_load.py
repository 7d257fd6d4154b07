"""The server under load, longer than the test suite allows: 64 clients that come and go, and a slow-loris attack.
usage: serve_load.py FAKE_POLICY_SERVER [--requests 1000] [--seconds 60]"""
import argparse
import random
import socket
import threading
import time

import numpy as np
import websockets.sync.client
from openpi_client import msgpack_numpy

from serving import Server, check_answer, observation


def connect(server):
    ws = websockets.sync.client.connect(server.url, compression=None, max_size=None)
    ws.recv(timeout=30)
    return ws


def soak(program, clients, requests):
    """Every answer belongs to its question; those who stay get equal shares; memory stays flat."""
    steady, problems, finished = [0] * clients, [], threading.Event()

    def client(index):
        rng = random.Random(index)
        leaves = index % 4 == 0
        try:
            ws = connect(server)
            for _ in range(requests):
                state = float(rng.randrange(1000000))
                ws.send(msgpack_numpy.packb(observation(state, side=16)))
                if leaves and rng.random() < 0.05:
                    ws.socket.close()
                    ws = connect(server)
                    continue
                check_answer(msgpack_numpy.unpackb(ws.recv(timeout=60)), state)
                if not leaves and not finished.is_set():
                    steady[index] += 1
            finished.set()  # shares are compared while all are at work
            ws.close()
        except BaseException as problem:
            problems.append(f"client {index}: {problem!r}")

    with Server([program, "--delay-ms", "1", "--queue", str(2 * clients), "--connections", str(2 * clients)]) as server:
        descriptors = server.descriptors()
        threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
        start = time.monotonic()
        [thread.start() for thread in threads]
        time.sleep(5)
        early = server.memory_mib()
        [thread.join() for thread in threads]
        seconds, late = time.monotonic() - start, server.memory_mib()
        assert not problems, problems
        shares = [count for index, count in enumerate(steady) if index % 4]
        answered = server.metric('shallowpi_requests_total{end="answered"}')
        abandoned = server.metric('shallowpi_requests_total{end="abandoned"}')
        fairness = max(shares) / min(shares)
        print(f"soak: {clients} clients x {requests} requests in {seconds:.0f} s: {answered:.0f} answered, "
              f"{abandoned:.0f} abandoned, fairness max/min {fairness:.2f}, memory {early:.1f} -> {late:.1f} MiB", flush=True)
        assert fairness <= 2 and late - early < 8
        for _ in range(100):
            if server.descriptors() <= descriptors:
                break
            time.sleep(0.1)
        assert server.descriptors() <= descriptors


def loris(program, count, seconds):
    """`count` connections that send their request a byte a second, renewed as the server drops them; the p99 of one
    good client, which an inference of 20 ms dominates, stays within 1.2 times what it is without them. Quiet and
    attacked periods take turns, so that both see the same machine."""
    attackers, due = [], 0.0

    def attack():
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + 1
        while len(attackers) < count:
            attackers.append(socket.create_connection(("127.0.0.1", server.port)))
        for index, attacker in enumerate(attackers):
            try:
                attacker.send(b"G")
            except OSError:
                attackers[index] = socket.create_connection(("127.0.0.1", server.port))

    def relent():
        while attackers:
            attackers.pop().close()

    def measure(duration, meanwhile):
        end = time.monotonic() + duration
        while time.monotonic() < end:
            start = time.perf_counter()
            ws.send(message)
            ws.recv(timeout=10)
            yield 1e3 * (time.perf_counter() - start)
            meanwhile()

    message = msgpack_numpy.packb(observation(1.0))
    quiet, attacked = [], []
    with Server([program, "--delay-ms", "20"]) as server, connect(server) as ws:
        for _ in range(6):
            quiet += measure(seconds / 6, relent)
            attacked += measure(seconds / 6, attack)
    p99 = [np.percentile(times, 99) for times in (quiet, attacked)]
    print(f"slow-loris: {count} half-open connections for {seconds} s: p99 {p99[0]:.1f} ms without, {p99[1]:.1f} ms "
          f"with them, ratio {p99[1] / p99[0]:.2f}", flush=True)
    assert p99[1] <= 1.2 * p99[0]


parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--clients", type=int, default=64)
parser.add_argument("--requests", type=int, default=1000)
parser.add_argument("--seconds", type=int, default=60)
options = parser.parse_args()
soak(options.program, options.clients, options.requests)
loris(options.program, 200, options.seconds)
