"""`shallowpi-infer serve` and the classes under it, against openpi's own client and against peers that mean no good.
usage: serve_test.py SHALLOWPI_INFER FAKE_POLICY_SERVER CHECKPOINT"""
import io
import json
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

import msgpack
import numpy as np
import safetensors.numpy
import websockets.exceptions
import websockets.sync.client
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from PIL import Image

from serving import Server, check_answer, observation

infer_program, fake_program, checkpoint = sys.argv[1:]
INTERNALS = re.compile(r"Traceback|\.cpp|\.h:|/home|/usr|/work|/tmp|0\.1\.0|LibTorch|[Bb]oost|[Bb]east|c10|std::")


def connect(server, **options):
    """A plain websocket, after the metadata."""
    ws = websockets.sync.client.connect(server.url, compression=None, max_size=None, **options)
    assert isinstance(ws.recv(timeout=5), bytes)
    return ws


def ask(ws, message):
    ws.send(message if isinstance(message, (bytes, str)) else msgpack_numpy.packb(message))
    return ws.recv(timeout=20)


def check_error(text, begin):
    assert isinstance(text, str) and text.startswith(begin), (begin, text)
    assert not INTERNALS.search(text), text


def close_code(ws):
    """Of the server's close frame."""
    try:
        while True:
            ws.recv(timeout=10)
    except websockets.exceptions.ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def real_policy():
    with Server([infer_program, "serve", "--checkpoint", checkpoint, "--port", "0", "--quiet"]) as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port)
        metadata = client.get_server_metadata()
        assert (metadata["robot"], metadata["action_horizon"], metadata["action_dim"]) == ("libero", 20, 7), metadata
        assert len(metadata["fingerprint"]) == 16 and metadata["euler_steps"] == 10, metadata
        noise = np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32)
        asked = observation(prompt="pick up the butter", side=128, noise=noise)
        first, second = client.infer(asked), client.infer(asked)
        assert first["actions"].dtype == np.float64 and first["actions"].shape == (20, 7)
        assert np.array_equal(first["actions"], second["actions"])
        assert list(first) == ["actions", "policy_timing", "server_timing"]
        assert first["policy_timing"]["infer_ms"] > 0
        assert list(first["server_timing"]) == ["infer_ms"]
        assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"] > 0
        others = [client.infer({**asked, **change})["actions"] for change in
                  ({"noise": noise[::-1].copy()}, {"num_steps": 3}, {"prompt": "open the drawer"},
                   {"observation/state": np.full(8, 0.3)}, {"observation/image": np.zeros((64, 64, 3), np.uint8)})]
        for other in others:
            assert np.isfinite(other).all() and not np.array_equal(other, first["actions"])
        prefix = client.infer({**asked, "prefix_actions": others[0][:3]})["actions"]
        assert np.allclose(prefix[:3], others[0][:3], atol=1e-5)
        try:
            client.infer({**asked, "observation/state": np.full(7, 0.3)})
            raise AssertionError("no error")
        except RuntimeError as error:
            assert "observation/state: expected 8 numbers in all, got 7" in str(error)
        # openpi resizes with Pillow, and so do we: the client's own resize makes no difference.
        from openpi_client import image_tools
        big = np.random.default_rng(2).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        answers = [client.infer({**asked, "observation/image": image})["actions"]
                   for image in (big, image_tools.resize_with_pad(big, 120, 120), big.transpose(2, 0, 1).copy())]
        assert np.array_equal(answers[0], answers[1]) and np.array_equal(answers[0], answers[2])
        # While the policy works, everyone else is answered.
        slow = threading.Thread(target=lambda: client.infer({**asked, "num_steps": 100}))
        slow.start()
        time.sleep(0.05)
        waits = [server.get("/healthz")[2] for _ in range(5)]
        assert slow.is_alive(), "the slow inference was too fast for this test"
        slow.join()
        assert max(waits) < 50, waits
        assert server.terminate()[0] == 0
        return f"/healthz during an inference: at most {max(waits):.1f} ms"


def options_of_the_real_server():
    limits = ["--steps", "1", "--max-age-ms", "5000", "--inference-timeout-s", "20", "--max-connections", "1",
              "--key", "state=pose,gripper", "--key", "base_0_rgb=scene"]
    with Server([infer_program, "serve", "--checkpoint", checkpoint, "--port", "0", "--quiet", *limits]) as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port)
        asked = observation(prompt="pick up the butter", side=128, noise=np.ones((20, 8), np.float32))
        asked["pose"], asked["gripper"] = np.split(asked.pop("observation/state"), [6])
        asked["scene"] = asked.pop("observation/image")
        plain, one, ten = (client.infer({**asked, **steps})["actions"]
                           for steps in ({}, {"num_steps": 1}, {"num_steps": 10}))
        assert np.array_equal(plain, one) and not np.array_equal(plain, ten)
        jpeg = io.BytesIO()
        Image.fromarray(asked["scene"]).save(jpeg, "JPEG")  # of one grey, which a JPEG keeps
        assert np.array_equal(client.infer({**asked, "scene": jpeg.getvalue()})["actions"], plain)
        client.infer({**asked, "timestamp": time.time()})
        try:
            client.infer({**asked, "timestamp": time.time() - 10})
            raise AssertionError("no error")
        except RuntimeError as error:
            assert "timestamp: the observation is 10" in str(error) and "at most 5000" in str(error), error
        assert raw(server, UPGRADE + b"\r\n").startswith(b"HTTP/1.1 503 ")  # a second connection
        # An inference is not in trouble before its twenty seconds are over.
        times = []
        many = {**asked, "num_steps": 100}
        slow = threading.Thread(target=lambda: times.append(client.infer(many)["policy_timing"]["infer_ms"]))
        slow.start()
        while slow.is_alive():
            status, page, _ = server.get("/healthz")
            assert status == 200, page
            time.sleep(0.01)
        assert times[0] > 40, "the slow inference was too fast for this test"


def recording():
    """What a server records is data to measure with: the policy that recorded it makes no error there."""
    with tempfile.TemporaryDirectory() as folder:
        steady = ["--noise-scale", "0", "--default-prompt", "pick up the butter", "--record", f"{folder}/run"]
        with Server([infer_program, "serve", "--checkpoint", checkpoint, "--port", "0", "--quiet", *steady]) as server:
            client = WebsocketClientPolicy("127.0.0.1", server.port)
            asked = [{**observation(state, side=64), "prompt": prompt}
                     for state, prompt in ((0.1, "pick up the milk"), (0.2, ""), (0.3, "pick up the milk"))]
            answers = [client.infer(seen)["actions"] for seen in asked]
            client.infer({**asked[0], "prefix_actions": answers[1][:3]})  # begins with the client's own actions
            assert server.terminate()[0] == 0
        (path,) = pathlib.Path(folder, "run").iterdir()
        tensors = safetensors.numpy.load_file(path)
        assert np.array_equal(tensors["actions"], np.array(answers, np.float32)), "recorded and sent actions differ"
        assert np.array_equal(tensors["image.base_0_rgb.1"], asked[1]["observation/image"])
        offline = [infer_program.replace("shallowpi-infer", "shallowpi-eval"), "offline", "--checkpoint", checkpoint,
                   "--data", f"{folder}/run/*.safetensors", "--noise-scale", "0", "--out", f"{folder}/out.json", "--quiet"]
        subprocess.run(offline, check=True, capture_output=True)
        policy = json.loads(pathlib.Path(folder, "out.json").read_text())["policies"][0]
        assert policy["action_error"] < 1e-5 and policy["velocity_error"] > 0, policy


def refused_keys():
    for keys, problem in ((["bsae_0_rgb=x"], "expected NAME=KEY with a NAME among state, base_0_rgb"),
                          (["state="], "expected NAME=KEY"), (["state=a", "state=b"], "state has a key already")):
        options = [option for key in keys for option in ("--key", key)]
        said = subprocess.run([infer_program, "serve", "--checkpoint", checkpoint, "--port", "0", *options],
                              capture_output=True, text=True)
        assert said.returncode == 2 and problem in said.stderr, said.stderr


def steady_chunks():
    command = [infer_program, "serve", "--checkpoint", checkpoint, "--port", "0", "--quiet"]
    asked = observation(prompt="pick up the butter", side=128)
    chunks = {}
    for scale in ("1", "0"):
        with Server([*command, "--noise-scale", scale]) as server:
            client = WebsocketClientPolicy("127.0.0.1", server.port)
            assert client.get_server_metadata().get("noise_scale", 1) == float(scale)
            chunks[scale] = [client.infer(asked)["actions"] for _ in range(2)]
            zeros = client.infer({**asked, "noise": np.zeros((20, 8), np.float32)})["actions"]
    assert not np.array_equal(*chunks["1"]) and np.array_equal(*chunks["0"])
    assert np.array_equal(chunks["0"][0], zeros)
    return "the same chunk each time"


def wire_format():
    with Server([fake_program]) as server:
        ws = websockets.sync.client.connect(server.url, compression="deflate")
        assert not ws.protocol.extensions  # offered by the client, not accepted
        metadata = ws.recv()
        assert metadata == msgpack.packb(msgpack.unpackb(metadata))
        raw = ask(ws, observation(3.0))
        answer = msgpack_numpy.unpackb(raw)
        check_answer(answer, 3.0)
        assert raw == msgpack_numpy.packb(answer)  # byte for byte what openpi's packer makes of it
        assert server.get("/healthz")[:2] == (200, "OK\n")
        assert server.get("/")[0] == 426
        # Keys as bytes, and in nested maps.
        nested = observation(4.0)
        nested["observation"] = {b"state": nested.pop("observation/state"), "image": nested.pop("observation/image")}
        check_answer(msgpack_numpy.unpackb(ask(ws, nested)), 4.0)


def with_array(**fields):
    """An observation whose image is a hand-made array."""
    array = {b"__ndarray__": True, b"data": bytes(12), b"dtype": "|u1", b"shape": [2, 2, 3]}
    array.update({name.encode(): value for name, value in fields.items()})
    return msgpack.packb({"observation/image": array})


def bad_messages():
    image, state = "observation/image: ", "observation/state: "
    small = observation()
    cases = [
        (b"", "message: "), (b"\xc1", "message: "), (b"\x93\x01", "message: "), ("text", "message: "),
        (b"\x91" * 100000, "message: "), (b"\xdd\xff\xff\xff\xff", "message: "), (b"\xdb\xff\xff\xff\xff", "message: "),
        (msgpack.packb([1]), "message: expected a map"),
        (msgpack_numpy.packb(small)[:-9], "message: "),
        (with_array(dtype="|O"), image), (with_array(dtype=">u2", shape=[1, 2, 3]), image),
        (with_array(dtype="<V8"), image), (with_array(dtype="<f4"), image), (with_array(shape=[2, 2, 4]), image),
        (with_array(shape=[-2, -2, 3]), image), (with_array(shape=[1 << 40, 1 << 40, 3]), image),
        (with_array(shape=[2.0, 2, 3]), image), (with_array(data="text"), image),
        ({**small, "observation/image": np.zeros((4, 4), np.uint8)}, image),
        ({**small, "observation/image": np.full((4, 4, 3), np.nan)}, image),
        ({k: v for k, v in small.items() if k != "observation/wrist_image"}, "observation/wrist_image: is missing"),
        ({**small, "observation/state": np.full(8, np.nan)}, state),
        ({**small, "observation/state": np.zeros((8, 1))}, state),
        ({k: v for k, v in small.items() if k != "prompt"}, "prompt: is missing"),
        ({**small, "prompt": "x" * (1 << 20)}, "prompt: longer"),
        ({**small, "prompt": b"\xff"}, "prompt: is not UTF-8"),
        ({**small, "prompt": {"a": 1}}, "prompt: expected text"),
        ({**small, "noise": np.zeros((4, 7), np.float32)}, "noise: "), ({**small, "num_steps": 10**6}, "num_steps: "),
        ({**small, "prefix_actions": np.zeros((9, 7))}, "prefix_actions: "),
        ({**small, "timestamp": "x"}, "timestamp: "),
        ({**small, "prompt": "blame"}, "observation/state: the policy cannot"),
        ({**small, "prompt": "nan"}, "actions: the policy's answer is not finite"),
    ]
    with Server([fake_program]) as server, connect(server) as other, connect(server) as ws:
        for message, begin in cases:
            check_error(ask(ws, message), begin)
            check_answer(msgpack_numpy.unpackb(ask(ws, observation(1.0))), 1.0)  # the connection survives
        check_answer(msgpack_numpy.unpackb(ask(other, observation(2.0))), 2.0)
        assert server.metric('shallowpi_requests_total{end="bad_message"}') == len(cases) - 1
        return f"{len(cases)} kinds"


def failures():
    with Server([fake_program]) as server:
        for _ in range(2):
            ws = connect(server)
            check_error(ask(ws, observation(prompt="fail")), "the policy failed")
            assert close_code(ws) == 1011
            assert server.get("/healthz")[0] == 503
        with connect(server) as ws:
            check_answer(msgpack_numpy.unpackb(ask(ws, observation(1.0))), 1.0)
        assert server.get("/healthz")[0] == 200
        for _ in range(3):
            ask(connect(server), observation(prompt="fail"))
        assert server.process.wait(timeout=10) == 1  # for the supervisor to start anew


def busy_server():
    """While one client's inference takes a second: health, pings, new connections; a bounded queue."""
    with Server([fake_program, "--queue", "2"]) as server, connect(server) as slow:
        slow.send(msgpack_numpy.packb(observation(prompt="sleep 1000")))
        time.sleep(0.1)
        waits = [server.get("/healthz")[2] for _ in range(10)]
        start = time.perf_counter()
        assert slow.ping().wait(timeout=0.5)  # on the connection that waits for its answer
        clients = [connect(server) for _ in range(3)]
        waits.append(1e3 * (time.perf_counter() - start) / 4)
        for client in clients:
            client.send(msgpack_numpy.packb(observation(7.0)))
            time.sleep(0.02)
        check_error(clients[2].recv(timeout=0.5), "busy: 2 observations are waiting already")
        for client in clients[:2]:
            check_answer(msgpack_numpy.unpackb(client.recv(timeout=5)), 7.0)
        check_answer(msgpack_numpy.unpackb(slow.recv(timeout=5)), 0.0)
        check_answer(msgpack_numpy.unpackb(ask(clients[2], observation(8.0))), 8.0)
        # Messages that come early are answered in turn.
        for state in (1.0, 2.0, 3.0):
            slow.send(msgpack_numpy.packb(observation(state)))
        for state in (1.0, 2.0, 3.0):
            check_answer(msgpack_numpy.unpackb(slow.recv(timeout=5)), state)
        assert max(waits) < 50, waits
        return f"slowest answer {max(waits):.1f} ms"


def many_clients():
    """Clients that come and go; every answer belongs to its question, and all get their share."""
    done = [0] * 12
    problems = []

    def client(index):
        rng = random.Random(index)
        try:
            ws = connect(server)
            while time.monotonic() < end:
                state = float(rng.randrange(100000))
                ws.send(msgpack_numpy.packb(observation(state, side=16)))
                if index % 3 == 0 and rng.random() < 0.1:  # leaves without waiting for the answer
                    ws.socket.close() if rng.random() < 0.5 else ws.close()
                    ws = connect(server)
                    continue
                check_answer(msgpack_numpy.unpackb(ws.recv(timeout=10)), state)
                done[index] += 1
            ws.close()
        except BaseException as problem:
            problems.append(problem)

    with Server([fake_program, "--delay-ms", "2", "--queue", "16"]) as server:
        descriptors = server.descriptors()
        end = time.monotonic() + 4
        threads = [threading.Thread(target=client, args=(index,)) for index in range(len(done))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not problems, problems
        steady = [count for index, count in enumerate(done) if index % 3]
        assert max(steady) <= 2 * min(steady), done
        wait_until(lambda: server.descriptors() <= descriptors, "descriptors are left open")
        assert server.metric("shallowpi_connections") == 0
        return f"{sum(done)} answers, fairness {max(steady) / min(steady):.2f}"


def wait_until(condition, problem, seconds=8):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, problem
        time.sleep(0.05)


def raw(server, request, wait=3):
    """The first bytes of the answer to bytes on a plain socket; empty where the server just closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as plain:
        plain.sendall(request)
        try:
            answer = plain.recv(4096)
        except ConnectionResetError:
            return b""
        assert not INTERNALS.search(answer.decode("latin1")), answer
        return answer


UPGRADE = (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n")


def access():
    key = "0123456789abcdef"
    with Server([fake_program, "--api-key", key, "--connections", "2"], stderr=subprocess.PIPE) as server:
        for header in (b"", b"Authorization: Api-Key 0123456789abcdeX\r\n",
                       b"Authorization: Bearer " + key.encode() + b"\r\n"):
            assert raw(server, UPGRADE + header + b"\r\n").startswith(b"HTTP/1.1 401 ")
        good = b"Authorization: Api-Key " + key.encode() + b"\r\n"
        opened = raw(server, UPGRADE + good + b"\r\n")
        assert opened.startswith(b"HTTP/1.1 101 ") and b"\r\nServer: shallowpi\r\n" in opened, opened
        assert raw(server, UPGRADE + good + b"Origin: http://evil\r\n\r\n").startswith(b"HTTP/1.1 403 ")
        assert raw(server, UPGRADE + b"X: " + b"x" * 10000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431 ")
        assert raw(server, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        for field, status in ((b"Sec-WebSocket-Key", b"400"), (b"Host", b"400"), (b"Sec-WebSocket-Version", b"426")):
            without = re.sub(field + rb": .*\r\n", b"", UPGRADE)
            assert raw(server, without + good + b"\r\n").startswith(b"HTTP/1.1 " + status), field
        other = raw(server, UPGRADE.replace(b"Version: 13", b"Version: 8") + good + b"\r\n")
        assert other.startswith(b"HTTP/1.1 426 ") and b"\r\nSec-WebSocket-Version: 13\r\n" in other, other
        assert raw(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert server.get("/healthz")[0] == 200 and server.get("/metrics")[0] == 401
        assert server.get("/metrics", {"Authorization": f"Api-Key {key}"})[0] == 200
        wait_until(lambda: "shallowpi_connections 0" in server.get("/metrics", {"Authorization": f"Api-Key {key}"})[1],
                   "a connection stays")
        clients = [WebsocketClientPolicy("127.0.0.1", server.port, api_key=key) for _ in range(2)]
        assert raw(server, UPGRADE + good + b"\r\n").startswith(b"HTTP/1.1 503 ")
        check_answer(clients[1].infer(observation(5.0)), 5.0)
        page = server.get("/metrics", {"Authorization": f"Api-Key {key}"})[1]
        for status, count in ((400, 3), (401, 4), (403, 1), (426, 2), (431, 1), (503, 1)):
            assert f'shallowpi_refused_handshakes_total{{status="{status}"}} {count}\n' in page, (status, page)
        server.terminate()
        log = server.process.stderr.read()
        assert log.count("127.0.0.1 was turned away with 401") == 1 and key not in log, log


def command_line():
    def refused(*options):
        command = [infer_program, "serve", "--checkpoint", checkpoint, *options]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 2, run
        return run.stderr
    assert "--api-key-file" in refused("--host", "0.0.0.0")
    assert "give an IP address" in refused("--host", "example.org")
    assert "at least 16 characters" in refused("--api-key-file", "/dev/null")
    with socket.create_server(("127.0.0.1", 0)) as other:
        log = refused("--port", str(other.getsockname()[1]))
        assert "cannot listen on 127.0.0.1:" in log and "warming up" not in log, log


def too_much():
    limits = ["--message-ms", "700", "--write-ms", "700", "--idle-ms", "2000"]
    with Server([fake_program, *limits]) as server, connect(server) as good:
        before = server.memory_mib()
        head = UPGRADE + b"\r\n"

        def frame(bytes_after_upgrade, wait=3):
            """The close code after hand-made frames."""
            with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as plain:
                plain.sendall(head)
                data = b""
                while b"\x80" not in data.partition(b"\r\n\r\n")[2] and b"robot" not in data:
                    data += plain.recv(4096)
                try:
                    for part in bytes_after_upgrade:
                        plain.sendall(part)
                except OSError:
                    pass  # the server has closed already; what it said can still be read
                try:
                    data = plain.recv(4096)
                    while not data.startswith(b"\x88"):
                        data = plain.recv(4096)
                except ConnectionResetError:
                    return None
                return int.from_bytes(data[2:4], "big")
        mask = b"\0\0\0\0"
        assert frame([b"\x82\xff\x7f" + b"\xff" * 7 + mask]) == 1009  # declares 2^63 - 1 bytes
        assert frame([b"\x82\xff" + (33 << 20).to_bytes(8, "big") + mask, bytes(33 << 20)]) == 1009
        assert frame([b"\x82\xff\xff" + b"\xff" * 7 + mask]) in (1002, 1009)
        fragments = b"\x02\x81" + mask + b"x" + (b"\x00\x81" + mask + b"x") * 200000
        assert frame([fragments], 10) == 1009
        assert frame([b"\x82\x01x"]) == 1002  # not masked
        assert frame([b"\x83\x80" + mask]) == 1002  # opcode that does not exist
        assert frame([b"\x81\x81" + mask + b"\xff"]) == 1007  # text that is not UTF-8
        start = time.monotonic()
        slow = (part for part in [b"\x82\xfe\x01\x00" + mask] + [b"x"] * 30 if not time.sleep(0.05))
        assert frame(slow, 10) in (1008, None) and time.monotonic() - start < 3
        check_answer(msgpack_numpy.unpackb(ask(good, observation(9.0))), 9.0)
        wait_until(lambda: server.metric("shallowpi_connections") == 1, "a bad connection stays")
        rise = server.memory_mib() - before
        assert rise < 60, rise
        time.sleep(2.5)  # answers the server's pings meanwhile
        check_answer(msgpack_numpy.unpackb(ask(good, observation(9.0))), 9.0)
        with socket.create_connection(("127.0.0.1", server.port), timeout=6) as silent:  # answers none
            silent.sendall(head)
            start = time.monotonic()
            while silent.recv(4096):
                pass
            assert 1.5 < time.monotonic() - start < 5
        deaf(server, head)
        check_answer(msgpack_numpy.unpackb(ask(good, observation(9.0))), 9.0)
        return f"memory rose by {rise:.0f} MiB"


def deaf(server, head):
    """A client that asks and never reads is cut off once the answers do not fit into the sockets any more."""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(5)
        plain.connect(("127.0.0.1", server.port))
        plain.sendall(head)
        try:
            for _ in range(4000):
                plain.sendall(b"\x82\x81\0\0\0\0\xc1" * 100)
        except OSError:
            pass
        wait_until(lambda: server.metric("shallowpi_connections") == 1, "a deaf client stays", 20)


def slow_loris():
    with Server([fake_program]) as server, connect(server) as good:
        descriptors = server.descriptors()
        lorises = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        start = time.monotonic()
        slowest = 0
        while time.monotonic() - start < 6:
            for loris in lorises:
                try:
                    loris.send(b"G")
                except OSError:
                    pass
            asked = time.perf_counter()
            check_answer(msgpack_numpy.unpackb(ask(good, observation(1.0))), 1.0)
            slowest = max(slowest, time.perf_counter() - asked)
            time.sleep(0.3)
        wait_until(lambda: server.descriptors() <= descriptors, "half-open connections stay", 2)
        [loris.close() for loris in lorises]
        assert slowest < 0.2, slowest
        return f"100 half-open, slowest answer {1e3 * slowest:.1f} ms"


def stale():
    with Server([fake_program, "--max-age-ms", "200"]) as server, connect(server) as ws:
        check_answer(msgpack_numpy.unpackb(ask(ws, observation(1.0, timestamp=time.time()))), 1.0)
        check_answer(msgpack_numpy.unpackb(ask(ws, observation(2.0))), 2.0)
        check_error(ask(ws, observation(1.0, timestamp=time.time() - 1)), "timestamp: the observation is 1")
        check_error(ask(ws, observation(1.0, "sleep 400", timestamp=time.time())), "timestamp: the observation is 4")
        check_error(ask(ws, observation(1.0, timestamp=time.time() + 60)), "timestamp: it lies in the future")


def termination():
    with Server([fake_program]) as server:
        idle, busy, queued = connect(server), connect(server), connect(server)
        half_open = socket.create_connection(("127.0.0.1", server.port))
        busy.send(msgpack_numpy.packb(observation(1.0, "sleep 500")))
        queued.send(msgpack_numpy.packb(observation(2.0)))
        time.sleep(0.1)
        result = []
        ender = threading.Thread(target=lambda: result.append(server.terminate()))
        ender.start()
        time.sleep(0.1)
        assert close_code(idle) == 1001
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
            raise AssertionError("it still accepts connections")
        except ConnectionRefusedError:
            pass
        for ws, state in ((busy, 1.0), (queued, 2.0)):
            check_answer(msgpack_numpy.unpackb(ws.recv(timeout=5)), state)
            assert close_code(ws) == 1001
        ender.join()
        half_open.close()
        code, seconds = result[0]
        assert code == 0 and seconds < 2, result
        return f"exit {seconds:.2f} s after SIGTERM, 500 ms of it inference"


def stubborn():
    """A client that is told to go and stays: SIGTERM must not wait for it beyond the closing handshake's five seconds."""
    with Server([fake_program]) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(UPGRADE + b"\r\n")
        fragment = b"\x81\0\0\0\0x"
        try:
            plain.sendall(b"\x02" + fragment + (b"\x00" + fragment) * 140000)
            data = b""
            while b"Too many fragments." not in data and (piece := plain.recv(4096)):
                data = data[-20:] + piece
        except ConnectionError:
            pass  # on a slow machine the five seconds are over already
        code, seconds = server.terminate()
        assert code == 0 and seconds < 7, (code, seconds)


for check in (wire_format, bad_messages, failures, busy_server, many_clients, access, too_much, slow_loris, stale,
              termination, stubborn, command_line, real_policy, options_of_the_real_server, recording, refused_keys,
              steady_chunks):
    start = time.monotonic()
    note = check()
    print(f"{check.__name__}: ok, {time.monotonic() - start:.1f} s{'; ' + note if note else ''}", flush=True)
