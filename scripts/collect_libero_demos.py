#!/usr/bin/env python3
"""Collects demonstrations in the LIBERO simulator with a scripted expert, in LIBERO's own HDF5 layout.

    python=$(scripts/setup_libero.sh)
    $python scripts/collect_libero_demos.py --suite libero_object --tasks 0,5,6 --episodes 25 --out data/object
    $python scripts/collect_libero_demos.py --suite libero_object --check       # only measures the expert

Objects stand where the task's own distribution puts them, then displaced by up to --displace metres; the official
initial states are never used. What is executed is disturbed, what is recorded is the expert's clean action (DART).
A demonstration depends on its number and the settings (and the policy) alone, so that the same command after an interruption collects
what is missing, and a larger --episodes adds to what is there. Only successful episodes are kept.
"""
import argparse
import json
import multiprocessing
import pathlib
import signal
import sys
import zlib
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

import libero_worker as simulator  # sets the variables of the renderer and of the threads: before numpy
import numpy as np
from libero_demos import (Disturbance, NoFreePlace, Progress, Recording, Replaced, TaskFile, claim_folder,
                          displacements, wilson)

MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
SETTLE_STEPS = 10
REPLAN = 5          # actions of a policy's chunk that are executed
AFTER_SUCCESS = 8   # steps recorded after success: the gripper's opening
ATTEMPTS = 20
LED_ATTEMPTS = 100  # where a policy leads: of a good one's long episodes most succeed
ASTRAY = 0.3        # of the starts after a missed grasp, the share on the way to the goal
FINE_STATES = ("descend", "close")  # half the disturbance: the fingers are as wide as the tolerance is
IMAGE_SIZE = 128


class ExpertFailed(Exception):
    """The expert does not succeed under these settings."""


class PolicyFailed(Exception):
    """The policy to be led by does not answer, or answers with an error."""


class Policy:
    """What answers at ws://HOST:PORT to openpi's protocol; with `shallowpi-infer serve`, from the noise that we draw."""

    def __init__(self, url):
        try:
            from openpi_client.websocket_client_policy import WebsocketClientPolicy
            from websockets.exceptions import WebSocketException
        except ImportError as error:
            raise PolicyFailed(f"--policy needs openpi-client ({error}): use the python of scripts/setup_libero.sh")
        self.url, self.errors = url, (OSError, WebSocketException, RuntimeError)  # the last: openpi's, for a server's answer
        try:
            self.client = WebsocketClientPolicy(url)
        except self.errors as error:
            raise PolicyFailed(f"no policy answers at {url} ({error}): start `shallowpi-infer serve --checkpoint DIR`")
        self.metadata = self.client.get_server_metadata()

    def actions(self, obs, language, rng):
        """The first actions of a chunk, [REPLAN, 7]."""
        scene, wrist = map(np.ascontiguousarray, simulator.upright(obs))
        request = {"observation/image": scene, "observation/wrist_image": wrist,
                   "observation/state": np.array(simulator.robot_state(obs)), "prompt": language}
        if "action_width" in self.metadata:
            shape = self.metadata["action_horizon"], self.metadata["action_width"]
            request["noise"] = rng.standard_normal(shape, np.float32) * np.float32(self.metadata.get("noise_scale", 1))
        try:
            return self.client.infer(request)["actions"][:REPLAN]
        except self.errors as error:
            raise PolicyFailed(f"the policy at {self.url}: {error}")


class Simulator:
    """One task's environment at a time, in this process."""

    def __init__(self, suite, policy_url=None):
        from libero_expert import CLOSED, Expert, Unreachable  # needs the simulator's packages
        self.CLOSED, self.Expert, self.Unreachable = CLOSED, Expert, Unreachable
        self.worker = simulator.Environment()
        self.suite, self.policy_url, self.policy = suite, policy_url, None

    def start(self, task, seed, init=None):
        """Resets: the official initial state `init`, or placements drawn with the seed."""
        self.worker.gate.open = False
        self.worker.load(self.suite, task, IMAGE_SIZE)
        self.env = self.worker.env
        self.worker.reset_sampling()
        self.env.env.hard_reset = init is None  # a soft one is faster, but equal only to 1e-5
        self.env.seed(seed)
        self.env.reset()
        if init is not None:
            self.env.set_init_state(self.worker.init_states[init])

    def settle(self):
        for _ in range(SETTLE_STEPS):
            self.env.step(simulator.SETTLE_ACTION)

    def execute(self, action, render):
        self.worker.gate.open = render
        return self.env.step(np.clip(action, -1, 1))[0]

    # Placements.

    def standing(self, scene):
        """{name of an object that stands on the table: names of those that stand on it}"""
        problem, env = self.env.env.parsed_problem, self.env.env
        groups, on_object = {}, []
        for fact in problem["initial_state"]:
            if fact[0] == "on" and fact[1] in env.objects_dict:
                if fact[2] in env.objects_dict:
                    on_object.append(fact)
                elif scene.owner(fact[2]) is None:
                    groups[fact[1]] = []
        for _, name, support in on_object:
            if support in groups:
                groups[support].append(name)
        return groups

    def table(self):
        """(x low, y low, x high, y high), or None where everything stands on the floor."""
        sizes = [value for name, value in vars(self.env.env).items() if name.endswith("table_full_size")]
        if "floor" in type(self.env.env).__name__.lower() or not sizes:
            return None
        half, centre = np.array(sizes[-1][:2]) / 2, np.array(self.env.env.workspace_offset[:2])
        return (*(centre - half), *(centre + half))

    def displace(self, scene, rng, distance):
        def box(name):
            cloud = scene.cloud(name)[:, :2]
            return (*cloud.min(axis=0), *cloud.max(axis=0))

        groups = self.standing(scene)
        fixtures = [name for name in self.env.env.fixtures_dict if scene.owner(name)]
        shifts = displacements(rng, [box(name) for name in groups], [box(name) for name in fixtures], distance,
                               self.table())
        mover = simulator.Scene(self.env.env)
        for (name, above), shift in zip(groups.items(), shifts):
            for moved in (name, *above):
                mover.shift(moved, *shift)
        self.env.sim.forward()

    # Episodes.

    def start_pose(self, expert, rng, spread):
        """An unrecorded walk to somewhere near the official pose."""
        point = expert.scene.gripper() + rng.uniform(-1, 1, 3) * spread * np.array([1, 1, 0.5])
        for action in expert.go(point, tolerance=0.01, limit=25):
            self.execute(action, render=False)

    def missed_grasp(self, expert, rng):
        """An unrecorded walk to where a grasp has just missed: beside the object or on the way from there to its goal,
        the fingers shut on nothing."""
        _, name, target = expert.goals[0]
        grasp = expert.choose_grasp(name, None, [])
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.07)
        point = grasp.point + [away * np.cos(angle), away * np.sin(angle), rng.uniform(0.02, 0.12)]
        if rng.random() < ASTRAY:
            point[:2] += rng.uniform(0, 0.5) * (expert.scene.position(target) - point)[:2]
            point[2] += 0.08
        expert.gripper_command = self.CLOSED
        above = [*point[:2], max(point[2], expert.scene.gripper()[2])]
        for way in (above, point):
            for action in expert.go(way, grasp.yaw, tolerance=0.015, limit=40):
                self.execute(action, render=False)

    def is_led(self, language, rng, least):
        """Lets the policy act for a while, `least` steps or more, unrecorded; False where it has succeeded already. A long while
        is left to those episodes only in which it does not succeed."""
        self.policy = self.policy or Policy(self.policy_url)
        obs = self.execute(simulator.SETTLE_ACTION, render=True)
        for _ in range(0, int(rng.integers(least, MAX_STEPS[self.suite])), REPLAN):
            actions = self.policy.actions(obs, language, rng)
            for i, action in enumerate(actions):
                obs = self.execute(action, render=i + 1 == len(actions))
                if self.env.check_success():
                    return False
        return True

    def demonstrate(self, task, rng, args):
        """A Recording, or None where the expert failed."""
        self.start(task, int(rng.integers(2**31)))
        expert = self.Expert(self.env)
        if args.displace:
            self.displace(expert.scene, rng, args.displace)
        self.settle()
        if args.start:
            self.start_pose(expert, rng, args.start)
        if self.policy_url:
            if not self.is_led(self.worker.suite(self.suite).get_task(task).language, rng, args.led_at_least):
                return None
        elif rng.random() < args.missed:
            self.missed_grasp(expert, rng)
        disturbance = Disturbance(rng, args.disturb)
        recording = Recording(self.env.sim.model.get_xml())
        after = 0
        for action in expert.plan():
            state = self.env.get_sim_state()
            push = disturbance.next() * (0.5 if expert.state in FINE_STATES else 1.0)
            drawn = len(recording) % args.render_every == 0
            self.record(recording, state, action, drawn, self.execute(action + push, render=drawn))
            after = after + 1 if self.env.check_success() else 0
            if after > AFTER_SUCCESS or len(recording) > 2 * MAX_STEPS[self.suite]:
                break
        return recording if after else None

    def record(self, recording, state, action, drawn, obs):
        recording.add(
            drawn=drawn, states=state, actions=action, robot_states=self.env.env.get_robot_state_vector(obs),
            agentview_rgb=obs["agentview_image"], eye_in_hand_rgb=obs["robot0_eye_in_hand_image"],
            ee_states=[*obs["robot0_eef_pos"], *simulator.axis_angle(obs["robot0_eef_quat"])],
            gripper_states=obs["robot0_gripper_qpos"], joint_states=obs["robot0_joint_pos"])

    def attempt(self, task, init):
        """(success, steps) from an official initial state, undisturbed and without images."""
        self.start(task, 0, init)
        self.settle()
        steps = 0
        for action in self.Expert(self.env).plan():
            self.execute(action, render=False)
            steps += 1
            if self.env.check_success():
                return True, steps
            if steps >= MAX_STEPS[self.suite]:
                break
        return False, steps

    def attributes(self, task):
        """What LIBERO writes beside the demonstrations of a task."""
        entry = self.worker.suite(self.suite).get_task(task)
        bddl = f"{entry.problem_folder}/{entry.bddl_file}"
        content = (pathlib.Path(self.worker.libero_path("bddl_files")) / bddl).read_text()
        problem = {"problem_name": self.env.problem_name, "domain_name": "robosuite",
                   "language_instruction": entry.language}
        kwargs = {"robots": ["Panda"], "controller_configs": self.env.env.robots[0].controller_config["type"],
                  "camera_names": ["agentview", "robot0_eye_in_hand"], "camera_heights": IMAGE_SIZE,
                  "camera_widths": IMAGE_SIZE, "control_freq": self.env.env.control_freq}
        name = type(self.env.env).__name__
        return {"env_name": name, "problem_info": json.dumps(problem), "macros_image_convention": "opengl",
                "bddl_file_name": bddl, "bddl_file_content": content,
                "env_args": json.dumps({"type": 1, "env_name": name, "problem_name": self.env.problem_name,
                                        "bddl_file": bddl, "env_kwargs": kwargs})}


# One process's simulator and settings.
worker_simulator, worker_args = None, None


def start_worker(args):
    global worker_simulator, worker_args
    worker_simulator, worker_args = Simulator(args.suite, args.policy), args


def start_pool_worker(args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the workers too; the parent waits for them
    start_worker(args)


def collect_one(job):
    task, name, index = job
    attempts = LED_ATTEMPTS if worker_args.policy else ATTEMPTS
    for attempt in range(attempts):
        rng = np.random.default_rng([worker_args.seed, zlib.crc32(worker_args.suite.encode()), task, index, attempt])
        recording = worker_simulator.demonstrate(task, rng, worker_args)
        if recording is not None:
            TaskFile(worker_args.out, name).write_part(index, recording)
            return task, index, attempt + 1, len(recording), worker_simulator.attributes(task)
    reason = "the policy succeeded, or the expert failed," if worker_args.policy else "the expert failed"
    raise ExpertFailed(f"{reason} {attempts} times in a row at task {task}: displace or disturb less")


def check_one(job):
    task, _, init = job
    try:
        return task, init, *worker_simulator.attempt(task, init)
    except worker_simulator.Unreachable as error:
        return task, init, None, str(error)


def run(function, jobs, args):
    """Yields results as they come, with progress on stderr. An interruption waits for the episodes under way only."""
    progress = Progress(len(jobs))
    context = multiprocessing.get_context("spawn")  # rendering contexts do not survive a fork
    with ProcessPoolExecutor(min(args.workers, len(jobs)), context, start_pool_worker, (args,)) as pool:
        waiting, running = iter(jobs), set()
        while progress.done < len(jobs):
            running |= {pool.submit(function, job) for job in islice(waiting, args.workers - len(running))}
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for job in finished:
                yield job.result()
                progress.advance()


def collect(args, tasks, names):
    if args.out is None:
        sys.exit("error: --out is missing: the folder for the demonstrations")
    settings = {name: getattr(args, name) for name in ("suite", "seed", "displace", "start", "missed", "disturb", "render_every")}
    settings["policy"] = None
    if args.policy:
        said = Policy(args.policy).metadata
        settings["policy"] = said.get("fingerprint", args.policy)
        settings |= {name: said[name] for name in ("euler_steps", "dtype", "noise_scale") if name in said}
    if args.led_at_least:  # folders from before this option do not name it
        settings["led_at_least"] = args.led_at_least
    if problem := claim_folder(args.out, settings):
        sys.exit(f"error: {problem}")
    files = {task: TaskFile(args.out, names[task]) for task in tasks}
    jobs = [(task, names[task], index) for task in tasks for index in files[task].missing(args.episodes)]
    steps, tries, attributes = [], [], {}
    for task, index, attempts, length, found in run(collect_one, jobs, args) if jobs else ():
        steps.append(length)
        tries.append(attempts)
        attributes[task] = found
        if not files[task].missing(args.episodes):
            files[task].merge(args.episodes, attributes[task])
    for task in tasks:
        if not files[task].is_merged(args.episodes):  # interrupted after the last demonstration
            start_worker(args)
            worker_simulator.start(task, 0)
            files[task].merge(args.episodes, worker_simulator.attributes(task))
        files[task].discard_merged()  # interrupted after the merge
        print(files[task].path)
    if jobs:
        print(f"{len(jobs)} demonstrations of {np.mean(steps):.0f} steps; {len(jobs)} of {sum(tries)} episodes succeeded")


def check(args, tasks, names):
    results, rows = {task: [] for task in tasks}, {}
    jobs = [(task, names[task], init) for task in tasks for init in range(args.episodes)]
    for task, init, success, steps in run(check_one, jobs, args):
        results[task].append({"init": init, "success": success, "steps": steps})
        if len(results[task]) == args.episodes:  # a row as soon as it is known
            rows[task] = report(task, names[task], sorted(results[task], key=lambda episode: episode["init"]))
    reached = [episode for row in rows.values() for episode in row.get("episodes", ())]
    print_row(" all", reached, args.suite)
    if args.json:
        with Replaced(args.json) as temporary:
            found = {"suite": args.suite, **summary(reached), "tasks": [rows[task] for task in tasks]}
            temporary.write_text(json.dumps(found, indent=1) + "\n")


def report(task, name, episodes):
    if episodes[0]["success"] is None:
        print(f"{task:4}       -                   {name}: {episodes[0]['steps']}", flush=True)
        return {"task": task, "name": name, "unreachable": episodes[0]["steps"]}
    print_row(f"{task:4}", episodes, name)
    return {"task": task, "name": name, **summary(episodes), "episodes": episodes}


def summary(episodes):
    successes = sum(episode["success"] for episode in episodes)
    low, high = wilson(successes, len(episodes))
    return {"successes": successes, "trials": len(episodes), "low": round(low, 4), "high": round(high, 4)}


def print_row(label, episodes, name):
    s = summary(episodes)
    share = f"{100 * s['successes'] / s['trials']:3.0f} %" if episodes else "-"
    print(f"{label} {s['successes']:4}/{s['trials']:<4} {share} [{100 * s['low']:3.0f}, {100 * s['high']:3.0f}] {name}", flush=True)


def parse_tasks(text, count):
    if text == "all":
        return list(range(count))
    chosen = [part.strip() for part in text.split(",")]
    for part in chosen:
        if not part.isdigit() or int(part) >= count:
            sys.exit(f"error: --tasks {text}: expected numbers below {count} such as 0,5,6, or all")
    return sorted({int(part) for part in chosen})


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=sorted(MAX_STEPS), default="libero_object")
    parser.add_argument("--tasks", default="all", help="numbers such as 0,5,6; default: all")
    parser.add_argument("--episodes", type=int, default=10,
                        help="demonstrations per task, or initial states with --check; default: 10")
    parser.add_argument("--displace", type=float, default=0.02, metavar="M", help="metres, uniform; default: 0.02")
    parser.add_argument("--start", type=float, default=0.05, metavar="M",
                        help="the gripper starts up to that far from its official pose; default: 0.05")
    parser.add_argument("--disturb", type=float, default=0.18, metavar="A",
                        help="standard deviation of what is added to executed translations, in action units; 0.35 is too"
                        " strong; default: 0.18")
    parser.add_argument("--missed", type=float, default=0.0, metavar="SHARE",
                        help="share of the demonstrations that start where a grasp has just missed; default: 0")
    parser.add_argument("--policy", metavar="ws://HOST:PORT",
                        help="a policy, of `shallowpi-infer serve` or another server with openpi's protocol: it acts first,"
                        " for up to an episode, and the expert goes on from there")
    parser.add_argument("--led-at-least", type=int, default=0, metavar="STEPS",
                        help="with --policy: it acts for that long at least. By about 140 steps a good policy has succeeded or"
                        " missed; what begins later teaches how to come back. default: 0")
    parser.add_argument("--render-every", type=int, default=1, metavar="N",
                        help="draw the cameras at every Nth step only, which is most of the time; between them the last"
                        " images are repeated, and training takes no observation there; default: 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes, 2 GB of memory each; default: 1")
    parser.add_argument("--out", type=pathlib.Path, help="folder for <task>_demo.hdf5")
    parser.add_argument("--check", action="store_true",
                        help="measure the expert over official initial states: undisturbed, without images, files")
    parser.add_argument("--json", type=pathlib.Path, help="with --check: write the results to this file")
    args = parser.parse_args()
    if args.policy and (args.missed or args.check):
        parser.error("--policy goes with neither --missed nor --check")
    if args.json and not args.check:
        parser.error("--json goes with --check")
    if args.led_at_least and not args.policy:
        parser.error("--led-at-least goes with --policy")
    for name in ("episodes", "workers", "render_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    for name, most in (("displace", 0.2), ("start", 0.2), ("missed", 1), ("disturb", 1.0), ("seed", 2**32),
                       ("led_at_least", MAX_STEPS[args.suite] - 1)):
        if not 0 <= getattr(args, name) <= most:
            parser.error(f"--{name.replace('_', '-')} must lie between 0 and {most:g}")
    return args


def stop(*_):
    raise KeyboardInterrupt  # the episodes under way are kept


def main():
    args = parse_arguments()
    signal.signal(signal.SIGTERM, stop)
    try:
        benchmark, _, _ = simulator.load_libero()
        from libero_expert import Unreachable
    except (simulator.UsageError, simulator.RenderError) as error:
        sys.exit(f"error: {error}")
    suite = benchmark.get_benchmark(args.suite)()
    tasks = parse_tasks(args.tasks, suite.n_tasks)
    if args.check and args.episodes > (most := min(len(suite.get_task_init_states(task)) for task in tasks)):
        sys.exit(f"error: --episodes {args.episodes}: --check plays official initial states, of which there are {most}")
    names = {task: suite.get_task(task).name for task in tasks}
    try:
        (check if args.check else collect)(args, tasks, names)
    except BrokenProcessPool:
        sys.exit("error: a simulator's process was killed (they need 2 GB each); the same command goes on: try fewer --workers")
    except (Unreachable, simulator.RenderError, ExpertFailed, NoFreePlace, PolicyFailed) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command collects what is missing")


if __name__ == "__main__":
    main()
