"""Demonstrations in LIBERO's HDF5 layout, and what collecting them draws at random. Needs no simulator."""
import fcntl
import glob
import io
import json
import os
import pathlib
import sys
import time

import h5py
import numpy as np

FRAMES = ("agentview_rgb", "eye_in_hand_rgb")


class NoFreePlace(Exception):
    """Objects cannot be displaced that far."""


class Disturbance:
    """An Ornstein-Uhlenbeck process on the translation of an action: as strong at any time, and slow enough to push the
    arm off its path, which white noise is not."""

    def __init__(self, rng, deviation, persistence=0.85):
        self.rng, self.deviation, self.persistence = rng, deviation, persistence
        self.value = rng.normal(0, deviation, 3) if deviation else np.zeros(3)

    def next(self):
        """[7] to add to an action; its first three values have the standard deviation given."""
        disturbance = np.concatenate([self.value, np.zeros(4)])
        fresh = self.rng.normal(0, 1, 3) * self.deviation * np.sqrt(1 - self.persistence**2)
        self.value = self.persistence * self.value + fresh
        return disturbance


def gap(a, b):
    """Metres between two rectangles (x low, y low, x high, y high); negative where they overlap."""
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


def displacements(rng, movable, fixed, distance, table=None, margin=0.02, tries=1000):
    """Draws [N, 2], uniform within +-distance, for N rectangles: on the table, and no closer to each other and to the
    fixed ones than margin (or than they were)."""
    def fits(box, index, placed):
        if table is not None and (min(box[0] - table[0], box[1] - table[1], table[2] - box[2], table[3] - box[3]) < 0):
            return False
        before = movable[index]
        return all(gap(box, new) >= min(margin, gap(before, old)) - 1e-9
                   for new, old in [*zip(placed, movable), *zip(fixed, fixed)])

    for _ in range(tries):
        drawn = rng.uniform(-distance, distance, (len(movable), 2))
        placed = []
        for index, (box, shift) in enumerate(zip(movable, drawn)):
            moved = np.asarray(box) + np.tile(shift, 2)
            if not fits(moved, index, placed):
                break
            placed.append(moved)
        if len(placed) == len(movable):
            return drawn
    raise NoFreePlace(f"no free places within {distance} m: displace less")


class Recording:
    """One demonstration, step by step. As in LIBERO's files, states are those before an action, observations after."""

    def __init__(self, model_file):
        self.model_file = model_file
        self.rows = {}

    def add(self, drawn=True, **values):
        """drawn: the images are new, not the last step's again."""
        for name, value in {**values, "drawn": drawn}.items():
            self.rows.setdefault(name, []).append(np.asarray(value))

    def __len__(self):
        return len(self.rows.get("actions", ()))

    def write(self, group):
        length = len(self)
        at_end = np.zeros(length, np.uint8)
        at_end[-1] = 1
        group.attrs.update(num_samples=length, model_file=self.model_file, init_state=self.rows["states"][0])
        for name in ("actions", "states", "robot_states"):
            group[name] = np.stack(self.rows[name])
        group["dones"], group["rewards"] = at_end, at_end
        obs = group.create_group("obs")
        for name in ("ee_states", "gripper_states", "joint_states"):
            obs[name] = np.stack(self.rows[name])
        obs["ee_pos"], obs["ee_ori"] = np.split(obs["ee_states"][:], 2, axis=1)
        if not all(self.rows["drawn"]):
            obs["drawn"] = np.array(self.rows["drawn"], np.float32)[:, None]
        for name in FRAMES:
            frames = np.stack(self.rows[name])
            # One frame is one chunk: the readers' fastest.
            obs.create_dataset(name, data=frames, chunks=(1, *frames.shape[1:]), compression="gzip")


def jpeg_rows(frames, quality):
    """[T, N] uint8: each frame as a JPEG, padded with zeros to the longest, as our reader takes it. Needs Pillow."""
    from PIL import Image
    coded = []
    for frame in frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "JPEG", quality=quality, subsampling=0)
        coded.append(out.getvalue())
    rows = np.zeros((len(coded), max(map(len, coded))), np.uint8)
    for row, data in zip(rows, coded):
        row[:len(data)] = np.frombuffer(data, np.uint8)
    return rows


class Replaced:
    """A file that appears under its name only when it is complete."""

    def __init__(self, path):
        self.path, self.temporary = path, path.with_name(path.name + f".{os.getpid()}.tmp")

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for stale in self.path.parent.glob(glob.escape(self.path.name) + ".*.tmp"):  # of killed processes
            stale.unlink(missing_ok=True)
        return self.temporary

    def __exit__(self, kind, *_):
        if kind is None:
            os.replace(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)


class Progress:
    """Episodes done, on stderr: one line that is redrawn on a terminal; in a log one line per half minute, and the last."""

    def __init__(self, total):
        self.total, self.done, self.started, self.last = total, 0, time.monotonic(), float("-inf")

    def advance(self):
        self.done += 1
        now, at_end = time.monotonic(), self.done == self.total
        left = round((now - self.started) / self.done * (self.total - self.done))
        text = f"{self.done}/{self.total} episodes, {left // 60} min {left % 60:02} s left"
        if sys.stderr.isatty():
            print(f"\r{text} ", end="\n" if at_end else "", file=sys.stderr, flush=True)
        elif at_end or now - self.last > 30:
            print(text, file=sys.stderr, flush=True)
            self.last = now


class TaskFile:
    """<task>_demo.hdf5, and the folder in which its demonstrations wait for each other while they are collected."""

    def __init__(self, out, task):
        self.path = pathlib.Path(out) / f"{task}_demo.hdf5"
        self.parts = pathlib.Path(out) / f"{task}_demo.parts"

    def part(self, index):
        return self.parts / f"demo_{index}.hdf5"

    def finished(self):
        """Numbers of the demonstrations in the file."""
        if not self.path.exists():
            return set()
        with h5py.File(self.path, "r") as file:
            return {int(name.removeprefix("demo_")) for name in file["data"]}

    def missing(self, episodes):
        return sorted(i for i in set(range(episodes)) - self.finished() if not self.part(i).exists())

    def write_part(self, index, recording):
        with Replaced(self.part(index)) as temporary, h5py.File(temporary, "w") as file:
            recording.write(file.create_group(f"data/demo_{index}"))

    def is_merged(self, episodes):
        return self.finished().issuperset(range(episodes))

    def merge(self, episodes, attributes):
        """Puts demonstrations 0 .. episodes - 1, of which none is missing, into one file, unless they are there."""
        if self.is_merged(episodes):
            return
        finished = self.finished()
        with Replaced(self.path) as temporary, h5py.File(temporary, "w") as file:
            data = file.create_group("data")
            total = 0
            for index in range(episodes):
                source = self.path if index in finished else self.part(index)
                with h5py.File(source, "r") as old:
                    old.copy(f"data/demo_{index}", data)
                total += int(data[f"demo_{index}"].attrs["num_samples"])
            data.attrs.update(attributes, num_demos=episodes, total=total)
        self.discard_merged()

    def discard_merged(self):
        """Removes the parts that are in the file, and what an interruption left of one that was being written."""
        merged = {self.part(index) for index in self.finished()}
        for part in self.parts.glob("*"):
            if part in merged or part.suffix == ".tmp":
                part.unlink()
        if self.parts.exists() and not any(self.parts.iterdir()):
            self.parts.rmdir()


def claim_folder(out, settings, kind="collection"):
    """Keeps other processes out of the folder until this one ends, and writes `settings` to OUT/KIND.json. Returns what is
    wrong where another process is at work, or other settings or demonstrations of somebody else are there already, or None."""
    global lock
    path = pathlib.Path(out) / f"{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(path.with_name(".lock"), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return f"another {kind} is under way in {out}"
    started = any(path.parent.rglob("*.hdf5"))
    if not (started and path.exists()):  # settings of which nothing came do not bind
        if started:
            return f"{out} holds demonstrations, but no {path.name} that says what they come from: choose another --out"
        with Replaced(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        return None
    old = json.loads(path.read_text())
    changed = [f"{name} {old.get(name)}, not {settings.get(name)}"
               for name in {**old, **settings} if old.get(name) != settings.get(name)]
    return f"{out} holds a {kind} with {'; '.join(changed)}: choose another --out" if changed else None


def wilson(successes, trials, z=1.959964):
    """The 95 % interval of a proportion."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
