#!/usr/bin/env python3
"""Converts a LeRobotDataset (v2.x or v3.0) into HDF5 files that shallowpi-distill reads, one per episode.

    scripts/convert_lerobot.py DATASET --out FOLDER [--episodes 0-9,12] [--camera KEY=NAME ...]

The files have ALOHA's layout (docs/data.md): action, observations/qpos, observations/images/<camera>, and the task as
language_instruction, one for each step where it changes within an episode. Frames from videos are stored as JPEG, frames
from PNGs losslessly. Finished episodes are kept when the command is repeated; with another source or other settings
(conversion.json) it is refused. Needs numpy, h5py, pyarrow, Pillow, and ffmpeg for videos; LeRobot itself is not needed.
"""
import argparse
import fractions
import functools
import io
import json
import pathlib
import subprocess
import sys
import tempfile

from weights_folder import fail

STATE_KEYS = ("observation.state", "state")
SPLIT_STATE = ("joint_position", "gripper_position")  # as openpi stores DROID's
ACTION_KEYS = ("action", "actions")
# What common data sets call the policies' cameras, as in src/model/lerobot_config.cpp; other names are kept.
CAMERA_NAMES = {"image": "base_0_rgb", "image2": "left_wrist_0_rgb", "wrist_image": "left_wrist_0_rgb",
                "cam_high": "base_0_rgb", "cam_left_wrist": "left_wrist_0_rgb", "cam_right_wrist": "right_wrist_0_rgb",
                "top": "base_0_rgb", "front": "base_0_rgb", "wrist": "left_wrist_0_rgb", "left_wrist": "left_wrist_0_rgb",
                "right_wrist": "right_wrist_0_rgb", "exterior_image_1_left": "base_0_rgb",
                "wrist_image_left": "left_wrist_0_rgb"}
MAX_ACTION_DIMS = 32
MAX_STATE_DIMS = 1024  # pi0.5 reads its state as text
JPEG_QUALITY = 95
NO_FFMPEG = "ffmpeg and ffprobe are needed; on Debian and Ubuntu: apt install ffmpeg"


def import_packages():
    """After the arguments are read, so that --help needs none of them."""
    global h5py, np, parquet, Image, libero_demos
    try:
        import h5py
        import numpy as np
        import pyarrow.parquet as parquet
        from PIL import Image
    except ModuleNotFoundError as error:
        fail(f"{error}; pip install numpy h5py pyarrow Pillow")
    import libero_demos


def read(path, how):
    """how(path), with what goes wrong as one message."""
    if not path.is_file():
        fail(f"{path} is missing; copy the data set again")
    try:
        return how(path)
    except (OSError, ValueError) as error:  # pyarrow's are ValueErrors
        fail(f"{path} cannot be read: {error}")


class Dataset:
    """The metadata of one LeRobotDataset: paths come from the templates in its info.json."""

    def __init__(self, root):
        self.root = root
        info_path = root / "meta" / "info.json"
        if not root.exists():
            hub = "; if it is one of the Hub, download it first: hf download --repo-type dataset " \
                  f"{root} --local-dir {root.name}" if len(root.parts) == 2 and not root.is_absolute() else ""
            fail(f"{root}: there is no such folder{hub}")
        if not info_path.is_file():
            fail(f"{root} is no LeRobotDataset: it has no meta/info.json")
        self.info = read(info_path, lambda path: json.loads(path.read_text()))
        self.version = self.info["codebase_version"]
        if self.version.startswith("v3."):
            self.episodes, self.tasks = self._read_v3()
        elif self.version.startswith("v2."):
            self.episodes, self.tasks = self._read_v2()
        else:
            fail(f"{info_path}: codebase_version {self.version} is not v2.x or v3.x; convert it with LeRobot first")
        self.fps = self.info["fps"]

    def _read_v2(self):
        def lines(name):
            return read(self.root / "meta" / name,
                        lambda path: [json.loads(line) for line in path.read_text().splitlines() if line.strip()])

        episodes = {row["episode_index"]: row for row in lines("episodes.jsonl")}
        return episodes, {row["task_index"]: row["task"] for row in lines("tasks.jsonl")}

    def _read_v3(self):
        episodes = {}
        for path in sorted((self.root / "meta" / "episodes").glob("*/*.parquet")):
            columns = [name for name in read(path, parquet.read_schema).names if not name.startswith("stats/")]
            for row in read(path, lambda path: parquet.read_table(path, columns=columns)).to_pylist():
                episodes[row["episode_index"]] = row
        if not episodes:
            fail(f"{self.root / 'meta' / 'episodes'} holds no episodes; copy the data set again")
        # The task is the table's index, which pandas names in several ways.
        table = read(self.root / "meta" / "tasks.parquet", parquet.read_table).to_pydict()
        texts = next(values for name, values in table.items() if name != "task_index")
        return episodes, dict(zip(table["task_index"], texts))

    def feature(self, candidates, chosen, what):
        """The first candidate that there is; several keys with commas between them count as one."""
        features = self.info["features"]
        for keys in (chosen,) if chosen else candidates:
            if all(key in features for key in keys.split(",")):
                return keys
        fail(f"{self.root} has no {what} among {', '.join(features)}; name it with --{what}")

    def cameras(self):
        """{key: (height, width, kind)} of the colour cameras."""
        found = {}
        for key, feature in self.info["features"].items():
            if feature["dtype"] not in ("image", "video") or "depth" in key or is_depth(feature):
                continue
            shape = list(feature["shape"])
            channels_first = shape[0] == 3 and shape[-1] != 3
            height, width = shape[1:] if channels_first else shape[:2]
            found[key] = (height, width, feature["dtype"])
        return found

    def task(self, index):
        """The text of a task in UTF-8."""
        if index not in self.tasks:
            fail(f"{self.root}: the data names task {index}, which meta/tasks does not have")
        return self.tasks[index].encode()

    def _chunk(self, episode):
        return {"episode_chunk": episode // self.info.get("chunks_size", 1000), "episode_index": episode}

    def rows(self, episode):
        """The episode's rows of its parquet file, in order."""
        row = self.episodes[episode]
        if self.version.startswith("v3."):
            name = self.info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        else:
            name = self.info["data_path"].format(**self._chunk(episode))
        table = read(self.root / name, lambda path: parquet.read_table(path, filters=[("episode_index", "=", episode)]))
        table = table.sort_by("frame_index")
        if table.num_rows != row["length"]:
            fail(f"{name} has {table.num_rows} rows of episode {episode}, but the metadata says {row['length']}")
        return table

    def video(self, key, episode):
        """(path, first frame) of an episode in its video file."""
        row, template = self.episodes[episode], self.info["video_path"]
        if not self.version.startswith("v3."):
            return self.root / template.format(video_key=key, **self._chunk(episode)), 0
        at = f"videos/{key}/"
        path = template.format(video_key=key, chunk_index=row[at + "chunk_index"], file_index=row[at + "file_index"])
        _, _, fps = probe_video(self.root / path)  # the file's own, which 29.97 may be called 30
        frames = round((row[at + "to_timestamp"] - row[at + "from_timestamp"]) * (fps or self.fps))
        if frames < row["length"]:
            fail(f"{path} has {frames} frames of episode {episode}, but the data {row['length']} steps: frames were dropped "
                 "while recording; leave that episode out with --episodes")
        return self.root / path, round(row[at + "from_timestamp"] * self.fps)


def is_depth(feature):
    """As LeRobot marks depth images, in any of its versions."""
    notes = (feature.get("info") or {}, feature.get("video_info") or {})
    return any(note.get(key) for note in notes for key in ("is_depth_map", "video.is_depth_map"))


@functools.cache
def probe_video(path):
    """(width, height, frames per second); the last is None where the file does not say."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height,avg_frame_rate",
               "-of", "json", str(path)]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        fail(NO_FFMPEG)
    streams = json.loads(result.stdout or "{}").get("streams")
    if result.returncode != 0 or not streams:
        fail(f"{path}: is no video that can be read: {result.stderr.strip() or 'it has no picture'}")
    count, _, seconds = streams[0].get("avg_frame_rate", "0/0").partition("/")
    fps = float(fractions.Fraction(int(count), int(seconds))) if int(count) and int(seconds or 1) else None
    return streams[0]["width"], streams[0]["height"], fps


@functools.cache
def every_frame():
    """The option for frames as they are: -fps_mode came with ffmpeg 5.1, -vsync went with 9."""
    listing = subprocess.run(["ffmpeg", "-hide_banner", "-h", "long"], capture_output=True, text=True).stdout
    return ["-fps_mode", "passthrough"] if "-fps_mode" in listing else ["-vsync", "0"]


class VideoReader:
    """Frames of video files through a pipe from ffmpeg, which stays open while episodes follow each other in a file."""

    def __init__(self, height, width, fps):
        self.height, self.width, self.fps = height, width, fps
        self.process, self.path, self.position = None, None, 0

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.errors.close()
        self.process = None

    def _check(self, path):
        """Frames are taken by their number, so size and rate have to be what info.json says."""
        width, height, fps = probe_video(path)
        if (width, height) != (self.width, self.height):
            fail(f"{path}: its frames are {width} x {height}, but meta/info.json says {self.width} x {self.height}")
        if fps and abs(fps - self.fps) > 0.01 * self.fps:
            fail(f"{path}: has {fps:g} frames per second, but meta/info.json says {self.fps:g}")

    def _open(self, path, first):
        self.close()
        self._check(path)
        # Half a frame early, so that rounding of time stamps cannot skip the first frame.
        seek = ["-ss", f"{(first - 0.5) / self.fps:.6f}"] if first > 0 else []
        command = ["ffmpeg", "-nostdin", "-v", "error", *seek, "-i", str(path), "-an", *every_frame(),
                   "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        self.errors = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors)
        except FileNotFoundError:
            fail(NO_FFMPEG)
        self.path, self.position = path, first

    def frames(self, path, first, count):
        if self.process is None or (self.path, self.position) != (path, first):
            self._open(path, first)
        size = self.height * self.width * 3
        for _ in range(count):
            data = self.process.stdout.read(size)
            if len(data) != size:
                self.errors.seek(0)
                reason = self.errors.read().decode(errors="replace").strip() or "it is shorter than the metadata says"
                fail(f"{path}: frame {self.position} cannot be decoded: {reason}")
            self.position += 1
            yield np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3)


def png_frames(dataset, key, column, shape):
    for index, cell in enumerate(column.to_pylist()):
        try:
            data = cell["bytes"] if cell["bytes"] is not None else (dataset.root / cell["path"]).read_bytes()
            frame = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except OSError as error:
            fail(f"{key}, frame {index}: cannot be read: {error}")
        if frame.shape[:2] != shape:
            fail(f"{key}, frame {index}: is {frame.shape[1]} x {frame.shape[0]}, but meta/info.json says {shape[1]} x {shape[0]}")
        yield frame


def table(rows, keys, episode, most):
    """[T, N] float32 of one key, or of several with commas between them, one beside the other."""
    columns = [np.asarray(rows[key].to_pylist(), dtype=np.float32).reshape(rows.num_rows, -1) for key in keys.split(",")]
    values = np.concatenate(columns, axis=1)
    if values.shape[1] > most:
        fail(f"{keys} has {values.shape[1]} values, but policies take at most {most}")
    if not np.isfinite(values).all():
        fail(f"{keys} of episode {episode} is not finite; leave that episode out with --episodes")
    return values


def write_frames(group, name, frames, count, shape, as_jpeg):
    if as_jpeg:
        group.create_dataset(name, data=libero_demos.jpeg_rows(frames, JPEG_QUALITY))
        return
    stored = group.create_dataset(name, (count, *shape, 3), np.uint8, chunks=(1, *shape, 3), compression="gzip")
    for index, frame in enumerate(frames):
        stored[index] = frame


def write_episode(out, dataset, episode, args, keys, cameras, readers):
    rows = dataset.rows(episode)
    state_key, action_key = keys
    out["action"] = table(rows, action_key, episode, MAX_ACTION_DIMS)
    out["observations/qpos"] = table(rows, state_key, episode, MAX_STATE_DIMS)
    tasks = [dataset.task(index) for index in rows["task_index"].to_pylist()]
    # Bytes of fixed length lie beside the root; texts of variable length would need a heap of their own.
    out.attrs["language_instruction"] = np.bytes_(tasks[0])
    if len(set(tasks)) > 1:
        out["language_instruction"] = np.array(tasks)
    out.attrs["fps"] = dataset.fps
    images = out.create_group("observations/images")
    for key, (name, height, width, kind) in cameras.items():
        if kind == "video":
            path, first = dataset.video(key, episode)
            frames = readers[key].frames(path, first, rows.num_rows)
        else:
            frames = png_frames(dataset, key, rows[key], (height, width))
        as_jpeg = args.frames == "jpeg" or (args.frames == "auto" and kind == "video")
        write_frames(images, name, frames, rows.num_rows, (height, width), as_jpeg)
    return rows.num_rows


def parse_episodes(text, available):
    if text is None:
        return sorted(available)
    chosen = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not (last.isdigit() and int(first) <= int(last))):
            fail(f"--episodes {text}: expected numbers and ranges such as 0-9,12")
        chosen.update(range(int(first), int(last or first) + 1))
    if missing := sorted(chosen - set(available)):
        fail(f"--episodes: there is no episode {missing[0]}; the data set has {len(available)}")
    return sorted(chosen)


def name_cameras(found, given):
    """{key: (name in the file, height, width, kind)}."""
    names = {}
    for text in given:
        key, equals, name = text.partition("=")
        if not equals or key not in found:
            fail(f"--camera {text}: expected KEY=NAME with a KEY among {', '.join(found)}")
        names[key] = name
    cameras = {}
    for key, shape in found.items():
        short = key.removeprefix("observation.images.").removeprefix("observation.")
        cameras[key] = (names.get(key, CAMERA_NAMES.get(short, short)).replace("/", "_"), *shape)
    used = [camera[0] for camera in cameras.values()]
    if not used or len(set(used)) != len(used):
        fail(f"cameras would be named {', '.join(used) or 'nothing'}; give each its own name with --camera, the names that the "
             "policy has (shallowpi-infer inspect lists them)")
    return cameras


def claim(args, keys, cameras):
    """One source and one way of converting per folder; --episodes may differ."""
    settings = {"dataset": str(args.dataset.resolve()), "state": keys[0], "action": keys[1], "frames": args.frames,
                "cameras": [f"{key}={camera[0]}" for key, camera in cameras.items()]}
    if problem := libero_demos.claim_folder(args.out, settings, "conversion"):
        fail(problem)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", type=pathlib.Path, help="folder with meta/info.json")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for episode_000000.hdf5, ...")
    parser.add_argument("--episodes", help="such as 0-9,12; default: all")
    parser.add_argument("--camera", action="append", default=[], metavar="KEY=NAME",
                        help="name a camera, such as observation.images.front=base_0_rgb")
    parser.add_argument("--state", metavar="KEY[,KEY...]", help="several are put one beside the other; default: "
                        f"{' or '.join(STATE_KEYS)} or {','.join(SPLIT_STATE)}")
    parser.add_argument("--action", metavar="KEY", help=f"default: {' or '.join(ACTION_KEYS)}")
    parser.add_argument("--frames", choices=("auto", "jpeg", "gzip"), default="auto",
                        help="auto: jpeg for videos, gzip (lossless) for PNGs")
    args = parser.parse_args()
    import_packages()

    dataset = Dataset(args.dataset)
    state_keys = (*STATE_KEYS, ",".join(SPLIT_STATE))
    keys = dataset.feature(state_keys, args.state, "state"), dataset.feature(ACTION_KEYS, args.action, "action")
    cameras = name_cameras(dataset.cameras(), args.camera)
    episodes = parse_episodes(args.episodes, dataset.episodes)
    args.out.mkdir(parents=True, exist_ok=True)
    claim(args, keys, cameras)
    todo = [episode for episode in episodes if not (args.out / f"episode_{episode:06d}.hdf5").exists()]
    if len(todo) < len(episodes):
        print(f"{len(episodes) - len(todo)} episodes are there already", file=sys.stderr)
    readers = {key: VideoReader(height, width, dataset.fps)
               for key, (_, height, width, kind) in cameras.items() if kind == "video"}
    frames, progress = 0, libero_demos.Progress(len(todo))
    for episode in todo:
        with libero_demos.Replaced(args.out / f"episode_{episode:06d}.hdf5") as temporary, h5py.File(temporary, "w") as out:
            frames += write_episode(out, dataset, episode, args, keys, cameras, readers)
        progress.advance()
    for reader in readers.values():
        reader.close()
    print(f"{args.out}: {len(episodes)} episodes, {len(todo)} of them ({frames} frames) new, "
          f"cameras {', '.join(c[0] for c in cameras.values())}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: finished episodes are kept, and the same command goes on")
