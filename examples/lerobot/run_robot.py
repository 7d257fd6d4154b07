#!/usr/bin/env python3
"""Lets a policy of `shallowpi-infer serve` drive a robot that LeRobot knows, such as an SO-101: LeRobot reads cameras and
motors and moves the arm, the server computes the actions.

    python run_robot.py --robot.type=so101_follower --robot.port=/dev/ttyACM0 --robot.id=arm \\
      --robot.cameras='{front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}' --prompt='fold the towel'

Options of the robot are LeRobot's own (docs: lerobot-record). State and actions have the order and the units of the data that
was recorded with this robot.
"""

import pathlib
import sys
import time
from dataclasses import dataclass, field

import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT / "examples"), str(PROJECT / "scripts")]
from convert_lerobot import CAMERA_NAMES  # noqa: E402
from policy_loop import Chunks, PolicyLoop, Server  # noqa: E402

# The server's keys of the cameras that the converter knows; another one is sent under its own name.
KEYS = {"base_0_rgb": "observation/image", "left_wrist_0_rgb": "observation/wrist_image",
        "right_wrist_0_rgb": "observation/wrist_image_right"}
CAMERA_KEYS = {name: KEYS[ours] for name, ours in CAMERA_NAMES.items()}


def observation_of(seen, features, keys, prompt):
    """What the server wants, of what robot.get_observation() has `seen`; `features` are robot.observation_features."""
    cameras = [name for name, kind in features.items() if isinstance(kind, tuple) and kind[-1] == 3]
    motors = [name for name, kind in features.items() if kind is float]
    images = {keys.get(name) or CAMERA_KEYS.get(name, f"observation/{name}"): seen[name] for name in cameras}
    if len(images) < len(cameras):
        raise ValueError(f"two of the cameras {', '.join(cameras)} would be sent as the same; name them with --cameras")
    return {**images, "observation/state": np.array([seen[name] for name in motors], np.float32), "prompt": prompt}


def action_of(values, features):
    """What robot.send_action() wants, of the policy's action; `features` are robot.action_features."""
    if len(values) != len(features):
        raise ValueError(f"the policy has {len(values)} action dims, the robot {len(features)}: {', '.join(features)}")
    return {name: float(value) for name, value in zip(features, values)}


def run(robot, loop, config):
    while True:
        start = time.perf_counter()
        seen = robot.get_observation()
        action = loop.tick(lambda: observation_of(seen, robot.observation_features, config.cameras, config.prompt))
        if action is not None:
            robot.send_action(action_of(action, robot.action_features))
        time.sleep(max(0.0, 1 / config.hz - (time.perf_counter() - start)))


def main():
    import lerobot.scripts.lerobot_teleoperate  # noqa: F401  registers LeRobot's robots and cameras
    from lerobot.configs import parser
    from lerobot.robots import RobotConfig, make_robot_from_config
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    @dataclass
    class Config:
        robot: RobotConfig
        prompt: str = ""  # the instruction; empty: the checkpoint's own
        host: str = "127.0.0.1"
        port: int = 8000
        api_key: str | None = None
        hz: float = 30.0  # of the demonstrations
        execute: int = 7  # actions of a chunk before the next one is asked for
        chunking: str = "receding"  # how chunks become actions: receding, ensemble or rtc (docs/controller.md)
        cameras: dict[str, str] = field(default_factory=dict)  # of the robot: the server's key

    @parser.wrap()
    def start(config: Config):
        robot = make_robot_from_config(config.robot)
        server = Server(lambda: WebsocketClientPolicy(config.host, config.port, config.api_key), config.hz)
        loop = PolicyLoop(server, Chunks(config.execute, config.chunking))
        robot.connect()
        try:
            run(robot, loop, config)
        except KeyboardInterrupt:
            pass
        finally:
            robot.disconnect()

    start()


if __name__ == "__main__":
    main()
