#!/usr/bin/env python3
"""Bad input to shallowpi-distill: one clear message, exit code 2 or 3, and nothing changed on disk.

    bad_input.py path/to/shallowpi-distill         needs numpy and h5py

Every case starts from configs/quickstart.yaml with a sound teacher and sound demonstrations, and spoils one thing.
"""
import fcntl
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = PROJECT / "configs" / "quickstart"
BINARY = pathlib.Path(sys.argv[1]).resolve()
USAGE, CORRUPT = 2, 3


def snapshot(folder):
    # Who asks for a run folder writes its process id into the lock.
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.name != ".lock"}


class Case:
    """A scratch folder with a copy of the teacher, one demonstration file, and a config."""

    def __init__(self, folder):
        self.folder = folder
        self.teacher, self.data, self.run = folder / "teacher", folder / "libero.hdf5", folder / "run"
        self.config, self.arguments = QUICKSTART.parent / "quickstart.yaml", []
        shutil.copytree(QUICKSTART / "teacher", self.teacher)
        (self.teacher / "manifest.json").unlink()  # the cases below are about what it does not cover
        with h5py.File(self.data, "w") as file:
            for name in ("demo_0", "demo_1"):
                demo = file.create_group("data/" + name)
                demo["actions"] = np.random.default_rng(0).standard_normal((6, 7))
                demo["obs/ee_states"], demo["obs/gripper_states"] = np.ones((6, 6)), np.ones((6, 2))
                demo["obs/agentview_rgb"] = demo["obs/eye_in_hand_rgb"] = np.zeros((6, 8, 8, 3), np.uint8)

    def check(self, name, code, *words):
        before = snapshot(self.folder)
        result = subprocess.run(
            [BINARY, "--config", self.config, f"teacher.checkpoint={self.teacher}", f"data.files={self.data}",
             f"output_dir={self.run}", "train.batch_size=2", "train.steps=1", "threads=1", "data.held_out_fraction=0.5",
             *self.arguments], capture_output=True, text=True, cwd=PROJECT)
        errors = [line for line in result.stderr.splitlines() if "error" in line or "problems" in line]
        assert result.returncode == code, f"{name}: exit code {result.returncode}, not {code}\n{result.stderr}"
        assert len(errors) == 1, f"{name}: not one message\n{result.stderr}"
        for word in words:
            assert word in result.stderr, f"{name}: no '{word}' in: {result.stderr}"
        after = snapshot(self.folder)
        changed = [path for path in before | after if before.get(path) != after.get(path)]
        assert not changed, f"{name}: changed {changed}"
        print(f"ok  {name}: {errors[0]}")

    # --- what is spoiled ---
    def write_config(self, text):
        self.config = self.folder / "spoiled.yaml"
        self.config.write_text(f"base: {QUICKSTART.parent}/quickstart.yaml\n" + text)

    def edit_weights(self, keep):
        """Rewrites the teacher's weights; `keep` gives each tensor's new first dimension (0: leave it out)."""
        path = self.teacher / "model.safetensors"
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header, data, parts, end = json.loads(raw[8:8 + size]), raw[8 + size:], [], 0
        for name, entry in sorted(((n, e) for n, e in header.items() if n != "__metadata__"),
                                  key=lambda item: item[1]["data_offsets"]):
            rows = keep(name, entry["shape"])
            if rows == 0:
                del header[name]
                continue
            begin, stop = entry["data_offsets"]
            whole = entry["shape"][0] if entry["shape"] else 1
            part = data[begin:begin + (stop - begin) * rows // whole]
            entry["shape"][:1] = [rows] if entry["shape"] else []
            entry["data_offsets"] = [end, end + len(part)]
            end += len(part)
            parts.append(part)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))

    def shrink_embedding(self, rows):
        self.edit_weights(lambda name, shape: rows if name.endswith("paligemma.lm_head.weight") else first_rows(shape))
        path = self.teacher / "shallowpi.json"
        info = json.loads(path.read_text())
        info["architecture"]["vocab"] = rows
        path.write_text(json.dumps(info))

    def edit_data(self, edit):
        with h5py.File(self.data, "r+") as file:
            edit(file)

    def replace(self, name, values):
        def edit(file):
            del file[name]
            file[name] = values
        self.edit_data(edit)

    def edit_stats(self, edit):
        stats = json.loads((QUICKSTART / "teacher/assets/shallowpi/norm_stats.json").read_text())
        edit(stats["norm_stats"])
        (self.folder / "norm_stats.json").write_text(json.dumps(stats))
        self.arguments.append(f"data.norm_stats={self.folder}/norm_stats.json")


def first_rows(shape):
    return shape[0] if shape else 1


def without_late_expert_layers(name, shape):
    late = "gemma_expert.model.layers." in name and int(name.split("layers.")[1].split(".")[0]) >= 12
    return 0 if late else first_rows(shape)


def hold_lock(case):
    """Makes a run, then holds its lock as a process that trains would."""
    make_run(case)
    lock = open(next(case.run.glob("*lock*")), "r+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def make_run(case):
    subprocess.run([BINARY, "--config", case.config, f"teacher.checkpoint={case.teacher}", f"data.files={case.data}",
                    f"output_dir={case.run}", "train.batch_size=2", "train.steps=1", "threads=1",
                    "data.held_out_fraction=0.5", "flow.draws=1", "--quiet"], check=True, cwd=PROJECT, capture_output=True)


def set_to(case, **values):
    for name, value in values.items():
        setattr(case, name, value)


def narrow(stats):
    stats["actions"]["q01"] = stats["actions"]["q99"]


def cut_width(stats):
    stats["state"] = {key: values[:5] for key, values in stats["state"].items()}


CASES = [
    ("missing config", USAGE, ["nowhere.yaml"], lambda c: set_to(c, config=c.folder / "nowhere.yaml")),
    ("unreadable config", USAGE, ["teacher"], lambda c: set_to(c, config=c.teacher)),
    ("unknown key", USAGE, ["train.stepz", "train.steps"], lambda c: c.write_config("train: {stepz: 3}\n")),
    ("duplicate key", USAGE, ["seed"], lambda c: c.write_config("seed: 1\nseed: 2\n")),
    ("mistyped value", USAGE, ["train.log_every"], lambda c: c.write_config("train: {log_every: often}\n")),
    ("value out of range", USAGE, ["train.log_every"], lambda c: c.write_config("train: {log_every: -1}\n")),
    ("teacher without weights", USAGE, ["model.safetensors"], lambda c: (c.teacher / "model.safetensors").unlink()),
    ("no teacher folder", USAGE, ["nowhere"], lambda c: set_to(c, teacher=c.folder / "nowhere")),
    ("truncated teacher", CORRUPT, ["model.safetensors"], lambda c: (c.teacher / "model.safetensors").write_bytes(
        (QUICKSTART / "teacher/model.safetensors").read_bytes()[:100_000])),
    ("foreign teacher file", CORRUPT, ["model.safetensors"],
     lambda c: (c.teacher / "model.safetensors").write_bytes(b"PK\3\4" * 1000)),
    ("stacks of 18 and 12 layers", CORRUPT, [], lambda c: c.edit_weights(without_late_expert_layers)),
    ("more student layers than the teacher has", USAGE, ["19", "18"], lambda c: c.arguments.append("student.layers=19")),
    ("no such demonstrations", USAGE, ["nowhere.hdf5"], lambda c: set_to(c, data=c.folder / "nowhere.hdf5")),
    ("truncated HDF5", CORRUPT, ["libero.hdf5"], lambda c: c.data.write_bytes(c.data.read_bytes()[:5000])),
    ("empty HDF5", CORRUPT, ["libero.hdf5", "empty"], lambda c: c.data.write_bytes(b"")),
    ("HDF5 without data/", CORRUPT, ["libero.hdf5"], lambda c: c.edit_data(lambda f: f.move("data", "other"))),
    ("demo of zero steps", CORRUPT, ["data/demo_1/actions", "zero steps"],
     lambda c: c.replace("data/demo_1/actions", np.zeros((0, 7)))),
    ("wrong image shapes", CORRUPT, ["data/demo_1/obs/agentview_rgb"],
     lambda c: c.replace("data/demo_1/obs/agentview_rgb", np.zeros((6, 8, 8, 4), np.uint8))),
    ("NaN actions", CORRUPT, ["data/demo_1/actions", "not finite"],
     lambda c: c.replace("data/demo_1/actions", np.full((6, 7), np.nan))),
    ("external link", CORRUPT, ["data/demo_1", "external link"],
     lambda c: c.replace("data/demo_1", h5py.ExternalLink(str(QUICKSTART / "butter.hdf5"), "data/demo_0"))),
    ("statistics of the wrong width", USAGE, ["state"], lambda c: c.edit_stats(cut_width)),
    ("statistics without range", USAGE, ["actions"], lambda c: c.edit_stats(narrow)),
    ("missing statistics", USAGE, ["nowhere.json"],
     lambda c: c.arguments.append(f"data.norm_stats={c.folder}/nowhere.json")),
    ("a tokenizer that is none", CORRUPT, ["shallowpi.json"],
     lambda c: c.arguments.append(f"data.tokenizer={c.teacher}/shallowpi.json")),
    ("vocabulary larger than the embedding", USAGE, ["1024", "300"],
     lambda c: c.shrink_embedding(300)),
    ("run folder of another config", USAGE, ["seed"], lambda c: (make_run(c), c.arguments.append("seed=12345"))),
    ("run folder in use", USAGE, ["run"], hold_lock),
]


def main():
    failures = []
    for name, code, words, spoil in CASES:
        with tempfile.TemporaryDirectory(prefix="shallowpi-bad-") as scratch:
            case = Case(pathlib.Path(scratch))
            held = spoil(case)  # keeps a lock alive
            try:
                case.check(name, code, *words)
            except AssertionError as error:
                failures.append(str(error))
            del held
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
