#!/usr/bin/env python3
"""A ROS 2 node between a robot and `shallowpi-infer serve`: observations in, one action per control tick out.

Subscribes to two camera topics (sensor_msgs/Image, rgb8 or bgr8) and to /joint_states, asks the policy server
through openpi's client on a thread of its own, and publishes std_msgs/Float32MultiArray on ~/action at the control
rate. The next chunk is requested after `execute` actions while the old one goes on; where the server is late, fails or
is away, nothing is published, so that the robot's own controller holds its position, until a new connection is made.

    pip install openpi-client
    python3 policy_node.py --ros-args -p host:=127.0.0.1 -p prompt:="pick up the cup" -p control_hz:=30.0
"""

import threading
import time

import numpy as np

KEYS = {"image": "observation/image", "wrist": "observation/wrist_image", "state": "observation/state"}


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


def image_array(message):
    """sensor_msgs/Image (rgb8 or bgr8) as uint8 [height, width, 3], RGB."""
    if message.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"image encoding {message.encoding}: only rgb8 and bgr8 are known")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    image = rows[:, : message.width * 3].reshape(message.height, message.width, 3)
    return image if message.encoding == "rgb8" else image[..., ::-1]


def main():
    import rclpy
    from openpi_client.websocket_client_policy import WebsocketClientPolicy
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Float32MultiArray

    class PolicyNode(Node):
        def __init__(self):
            super().__init__("shallowpi")
            value = lambda name, default: self.declare_parameter(name, default).value
            self.prompt = value("prompt", "")
            self.chunks = Chunks(value("execute", 7))
            self.lock = threading.Lock()
            self.latest = {}
            address = value("host", "127.0.0.1"), value("port", 8000), value("api_key", "") or None
            self.server = Server(lambda: WebsocketClientPolicy(*address))
            self.actions = self.create_publisher(Float32MultiArray, "~/action", 1)
            for name, topic in (("image", "camera/image_raw"), ("wrist", "wrist_camera/image_raw")):
                self.create_subscription(
                    Image,
                    value(f"{name}_topic", topic),
                    lambda message, name=name: self.latest.__setitem__(name, message),
                    qos_profile_sensor_data,
                )
            self.create_subscription(
                JointState,
                value("state_topic", "joint_states"),
                lambda message: self.latest.__setitem__("state", message),
                qos_profile_sensor_data,
            )
            self.create_timer(1.0 / value("control_hz", 30.0), self.tick)

        def tick(self):
            if len(self.latest) < len(KEYS):
                return
            with self.lock:
                if self.chunks.wants_request():
                    threading.Thread(target=self.infer, args=(dict(self.latest),), daemon=True).start()
                action = self.chunks.step()
            if action is not None:
                self.actions.publish(Float32MultiArray(data=[float(x) for x in action]))

        def infer(self, messages):
            actions = None
            try:
                observation = {
                    KEYS["image"]: image_array(messages["image"]),
                    KEYS["wrist"]: image_array(messages["wrist"]),
                    KEYS["state"]: np.asarray(messages["state"].position, np.float32),
                    "prompt": self.prompt,
                }
                actions = self.server.infer(observation)
            except Exception as error:  # the loop goes on whatever the server says
                self.get_logger().error(f"inference failed: {error}")
            with self.lock:
                self.chunks.answer(actions)

    rclpy.init()
    try:
        rclpy.spin(PolicyNode())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
