#!/usr/bin/env python3
"""A ROS 2 node between a robot and `shallowpi-infer serve`: observations in, one action per control tick out.

Subscribes to two camera topics (sensor_msgs/Image, rgb8 or bgr8) and to /joint_states, asks the policy server
through openpi's client on a thread of its own, and publishes std_msgs/Float32MultiArray on ~/action at the control
rate. Where the server is late, fails or is away, or a topic has died, nothing is published, so that the robot's own
controller holds its position.

    pip install openpi-client
    python3 policy_node.py --ros-args -p host:=127.0.0.1 -p prompt:="pick up the cup" -p control_hz:=30.0
"""

import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from policy_loop import Chunks, PolicyLoop, Server  # noqa: E402

KEYS = {"image": "observation/image", "wrist": "observation/wrist_image", "state": "observation/state"}


def image_array(message):
    """sensor_msgs/Image (rgb8 or bgr8) as uint8 [height, width, 3], RGB."""
    if message.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"image encoding {message.encoding}: only rgb8 and bgr8 are known")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    image = rows[:, : message.width * 3].reshape(message.height, message.width, 3)
    return image if message.encoding == "rgb8" else image[..., ::-1]


def stale(latest, now, max_age):
    """The names of which nothing has come for `max_age` seconds: a robot must not act on a camera that has died."""
    return [name for name in KEYS if name not in latest or now - latest[name][1] > max_age]


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
            self.latest = {}  # by name: the message and when it came
            self.max_age = value("max_age_ms", 500.0) / 1e3
            address = value("host", "127.0.0.1"), value("port", 8000), value("api_key", "") or None
            hz = value("control_hz", 30.0)
            report = self.get_logger().error
            self.loop = PolicyLoop(Server(lambda: WebsocketClientPolicy(*address), hz, report),
                                   Chunks(value("execute", 7), value("chunking", "receding")), report)
            self.actions = self.create_publisher(Float32MultiArray, "~/action", 1)
            for name, topic in (("image", "camera/image_raw"), ("wrist", "wrist_camera/image_raw")):
                self.create_subscription(
                    Image,
                    value(f"{name}_topic", topic),
                    lambda message, name=name: self.receive(name, message),
                    qos_profile_sensor_data,
                )
            self.create_subscription(
                JointState,
                value("state_topic", "joint_states"),
                lambda message: self.receive("state", message),
                qos_profile_sensor_data,
            )
            self.create_timer(1.0 / hz, self.tick)

        def receive(self, name, message):
            self.latest[name] = message, time.monotonic()

        def tick(self):
            missing = stale(self.latest, time.monotonic(), self.max_age)
            if missing:
                self.get_logger().warning(f"nothing new from {', '.join(missing)}", throttle_duration_sec=5.0)
            seen = {name: message for name, (message, _) in self.latest.items()}
            action = self.loop.tick(None if missing else lambda: self.observation(seen))
            if action is not None:
                self.actions.publish(Float32MultiArray(data=[float(x) for x in action]))

        def observation(self, seen):
            return {
                KEYS["image"]: image_array(seen["image"]),
                KEYS["wrist"]: image_array(seen["wrist"]),
                KEYS["state"]: np.asarray(seen["state"].position, np.float32),
                "prompt": self.prompt,
            }

    rclpy.init()
    try:
        rclpy.spin(PolicyNode())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
