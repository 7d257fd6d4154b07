"""What the tests of the server share: starting one, and observations whose answers tell which question they belong to."""
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np


class Server:
    """A server program on a free port; ends with the block."""

    def __init__(self, command, **popen):
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": "1"}, **popen)
        line = self.process.stdout.readline()
        match = re.fullmatch(r"listening on ws://127\.0\.0\.1:(\d+)\n", line)
        assert match, f"expected the address, got {line!r}, exit code {self.process.poll()}"
        self.port = int(match[1])
        self.url = f"ws://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def get(self, path, headers={}):
        """(status, body, milliseconds) of a plain HTTP request."""
        start = time.perf_counter()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                status, body = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read().decode()
        return status, body, 1e3 * (time.perf_counter() - start)

    def metric(self, line):
        body = self.get("/metrics")[1]
        return float(re.search("^" + re.escape(line) + r" (\S+)$", body, re.M)[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024

    def terminate(self):
        """SIGTERM; returns (exit code, seconds until the exit)."""
        start = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30), time.perf_counter() - start


def observation(state=0.0, prompt="go", side=64, **more):
    """As openpi's LIBERO client sends it."""
    image = np.full((side, side, 3), 127, np.uint8)
    return {"observation/image": image, "observation/wrist_image": image,
            "observation/state": state + np.arange(8) / 8, "prompt": prompt, **more}


def expected_actions(state=0.0):
    """What fake_policy_server answers to observation(state)."""
    return (state + np.arange(7) / 8)[None, :] + np.arange(4)[:, None]


def check_answer(answer, state):
    assert np.allclose(answer["actions"], expected_actions(state), rtol=1e-6), (state, answer["actions"])
