#!/usr/bin/env python3
"""Merges a LoRA adapter that LeRobot trained (lerobot-train --peft.method_type=LORA) into its base policy.

    scripts/merge_adapter.py ADAPTER --base BASE --out OUT

ADAPTER is LeRobot's pretrained_model folder with adapter_config.json and adapter_model.safetensors, or the folder of
the training step above it. BASE is the folder of the policy that this training began with; adapter_config.json names it
(base_model_name_or_path), and one of the Hub has to be downloaded first. OUT becomes a pretrained_model folder as
LeRobot writes them without PEFT: the weights are stored in BASE's precision; config.json and the two processors, with
their statistics, are ADAPTER's where it has them, else BASE's. Needs numpy, but neither PyTorch nor PEFT, and memory
for a few copies of the largest tensor that the adapter changes.
"""
import argparse
import json
import math
import os
import pathlib
import re
import shutil
import sys

from weights_folder import Progress, fail, few, new_folder

WEIGHTS, ADAPTER_WEIGHTS, ADAPTER_CONFIG = "model.safetensors", "adapter_model.safetensors", "adapter_config.json"
PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
EXPORTED = ("tokenizer.model", "load_shallow.py")  # what shallowpi's own LeRobot folders may have besides
PREFIX = "base_model.model."  # PEFT's, before LeRobot's name of a tensor
# Of PEFT's LoraConfig: what is read here, and what has no effect, since the names tell which tensors were trained, the
# training is over, and PEFT itself turns fan_in_fan_out off for linear layers, of which the policies are made. Anything
# else has to be off: with it, an adapter is more than scaled B @ A.
READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
WITHOUT_EFFECT = {"auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode",
                  "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern",
                  "lora_dropout", "fan_in_fan_out", "megatron_core", "qalora_group_size", "loftq_config", "eva_config",
                  "corda_config", "lora_ga_config"}
OFF = (None, False, [], {}, "none")
# Ways to begin that leave the base's weights alone; the others (pissa, olora, corda, loftq, lora_ga) do not.
BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal", "mica")
BY_PEFT = "have PEFT merge it: PeftModel.from_pretrained(policy, ADAPTER).merge_and_unload().save_pretrained(OUT)"
DTYPES = {"F32": ("<f4", 3.4028235e38), "BF16": ("<u2", 3.3895314e38), "F16": ("<f2", 65504)}  # numpy's, largest number


def import_packages():
    """After the arguments are read, so that --help needs none of them."""
    global np
    try:
        import numpy as np
    except ModuleNotFoundError as error:
        fail(f"{error}; pip install numpy")


def decode(data, dtype):
    """Stored bytes -> float32. bfloat16, which numpy does not have, is float32's upper half."""
    values = data.view(DTYPES[dtype][0])
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values.astype(np.float32)


def encode(x, dtype):
    """Finite float32 -> what is stored; to bfloat16, too, rounded to the nearest, and from halfway to the even one."""
    if dtype != "BF16":
        return x.astype(DTYPES[dtype][0])
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


class TensorFile:
    """A safetensors file: the header's length, the header in JSON, and the tensors without gaps. Nothing is read before
    it is asked for."""

    def __init__(self, path):
        self.path = path
        try:
            data = np.asarray(np.memmap(path, np.uint8, "r"))
            start = 8 + int.from_bytes(data[:8].tobytes(), "little")
            if start > min(len(data), 10**8):
                raise ValueError("it does not begin with a header")
            header = json.loads(data[8:start].tobytes())
            header.pop("__metadata__", None)
            entries = sorted((*entry["data_offsets"], name, entry["dtype"], tuple(entry["shape"]))
                             for name, entry in header.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fail(f"{path} cannot be read as safetensors: {error}. Copy it again (from Git: git lfs pull)")
        self.head, self.data = data[:start], data[start:]
        self.tensors = {}  # {name: (dtype, shape, bytes)}, in the order of the file
        end = 0
        for begin, stop, name, dtype, shape in entries:
            size = math.prod(shape) * np.dtype(DTYPES[dtype][0]).itemsize if dtype in DTYPES else stop - begin
            if begin != end or stop - begin != size:
                fail(f"{path}: {name} has {stop - begin} bytes at {begin}, and {size} at {end} were expected; copy the "
                     "file again")
            self.tensors[name], end = (dtype, shape, self.data[begin:stop]), stop
        if end != len(self.data):
            fail(f"{path} has {len(self.data)} bytes of tensors, and its header says {end}; copy the file again")

    def read(self, name):
        """float32 in the tensor's shape."""
        dtype, shape, data = self.tensors[name]
        x = decode(data, dtype).reshape(shape)
        if not np.isfinite(x).all():
            fail(f"{self.path}: {name} is not finite; copy the file again, or take an earlier step of the training")
        return x


def read_json(path):
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be read: {error}")
    return value if isinstance(value, dict) else fail(f"{path} is no JSON object")


def find(folder, name, hint):
    """`folder`, or its pretrained_model, whichever has the file."""
    for path in (folder, folder / "pretrained_model"):
        if (path / name).is_file():
            return path
    fail(f"{folder} has no {name}{hint}" if folder.exists() else f"{folder}: there is no such folder{hint}")


def read_config(path):
    """adapter_config.json, if scaled B @ A and whole tensors are all that such an adapter has."""
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        fail(f"{path}: peft_type is {config.get('peft_type')}, and only LORA can be merged here; {BY_PEFT}")
    for key, value in config.items():
        if key not in READ | WITHOUT_EFFECT and value not in OFF:
            fail(f"{path}: {key} is {json.dumps(value)}, which cannot be merged here; {BY_PEFT}")
    if (begun := config.get("init_lora_weights", True)) not in BEGINNINGS:
        fail(f"{path}: init_lora_weights is {begun}, which changed the base's weights before the training; {BY_PEFT}")
    return config


def trained_on(config):
    return config.get("base_model_name_or_path") or "not known"


def rank_and_scale(config, module):
    """Of one module. As in PEFT, the first regular expression of a pattern counts that fits the module's whole name, or
    all that follows one of its dots."""
    def look_up(pattern, default):
        fits = (value for key, value in (config.get(pattern) or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module))
        return next(fits, config[default])

    try:
        rank, alpha = look_up("rank_pattern", "r"), look_up("alpha_pattern", "lora_alpha")
        return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, re.error) as error:
        fail(f"{ADAPTER_CONFIG} does not give rank and alpha of {module}: {error!r}; copy it again")


def assign(adapter, base):
    """{name in the base: {"A": name in the adapter, "B": another} or {"whole": name}}, and the names left over."""
    uses, left = {}, []
    for key in adapter.tensors:
        name = key.removeprefix(PREFIX)
        if ".lora_embedding_" in name:
            fail(f"{adapter.path}: {key} belongs to LoRA of an embedding, which cannot be merged here; {BY_PEFT}")
        module, lora, part = name.rpartition(".lora_")
        wanted = f"{module}.weight" if lora else name
        # Without model. in openpi's files, which LeRobot takes too.
        target = next((stored for stored in (wanted, wanted.removeprefix("model.")) if stored in base.tensors), None)
        part = {"A.weight": "A", "B.weight": "B"}.get(part) if lora else "whole"
        if name == key or target is None or part is None or part in uses.get(target, {}):
            left.append(key)
        else:
            uses.setdefault(target, {})[part] = key
    for target, parts in [*uses.items()]:
        if set(parts) not in ({"A", "B"}, {"whole"}):
            left += uses.pop(target).values()
    return uses, left


def plan(adapter, config, base):
    """{name in the base: (whole tensor,) or (A, B, scale)} with every tensor of the adapter in it once, and the ranks
    and scales that there are."""
    uses, left = assign(adapter, base)
    origin = f"Is {base.path.parent} what it was trained on? By {ADAPTER_CONFIG} that is {trained_on(config)}"
    if left or not uses:
        fail(f"{adapter.path}: {len(left)} of its {len(adapter.tensors)} tensors cannot be merged (the base has none "
             f"of that name, of lora_A and lora_B there is one, or two are for the same): {few(left)}. {origin}")
    changes, scales, wrong = {}, set(), []
    for target, parts in uses.items():
        dtype, shape, _ = base.tensors[target]
        dtypes, shapes = zip(*(adapter.tensors[parts[part]][:2] for part in sorted(parts)))
        if not {dtype, *dtypes} <= set(DTYPES):
            wrong.append(f"{target} is {dtype} and gets {' and '.join(dtypes)}, not {', '.join(DTYPES)}")
        if "whole" in parts:
            changes[target] = parts["whole"],
            expected = shape,
        else:
            rank, scale = rank_and_scale(config, parts["A"].removeprefix(PREFIX).removesuffix(".lora_A.weight"))
            changes[target] = parts["A"], parts["B"], scale
            scales.add((rank, scale))
            # Of a convolution [out, in, y, x], A is [rank, in, y, x] and B [out, rank, 1, 1].
            expected = (rank, *shape[1:]), (*shape[:1], rank, *[1] * (len(shape) - 2))
        if shapes != expected:
            wrong.append(f"{target} {shape} needs {' and '.join(map(str, expected))}, not "
                         f"{' and '.join(map(str, shapes))}")
    if wrong:
        fail(f"{adapter.path}: {few(wrong)}. {origin}")
    return changes, scales


def changed(change, adapter, base, target):
    """A tensor's new values, as they are stored."""
    dtype, shape, _ = base.tensors[target]
    x = adapter.read(change[0])
    if len(change) > 1:
        a, b, scale = x, adapter.read(change[1]), np.float32(change[2])
        x = base.read(target) + scale * (b.reshape(len(b), -1) @ a.reshape(len(a), -1)).reshape(shape)
    largest = DTYPES[dtype][1]
    if not np.abs(x).max(initial=0) <= largest:
        fail(f"{target} would get values beyond {largest:.3g}, the largest of {dtype}; take an earlier step of the "
             "training")
    return encode(x, dtype)


def write_weights(path, changes, adapter, base):
    """The base's file, with other bytes where a tensor changes."""
    progress = Progress(base.data.size)
    with open(path, "wb") as file:
        file.write(base.head)
        for name, (_, _, data) in base.tensors.items():
            file.write(changed(changes[name], adapter, base, name) if name in changes else data)
            progress.advance(data.size)
        os.fsync(file.fileno())


def policy_config(adapter, base):
    """LeRobot's config.json, of a policy that is no adapter any more."""
    paths = [folder / "config.json" for folder in (adapter, base) if (folder / "config.json").is_file()]
    configs = [config for config in map(read_json, paths) if "type" in config]
    if not configs:
        fail(f"neither {adapter} nor {base} has a config.json of LeRobot: copy it from where the adapter was trained")
    if configs[0]["type"] != configs[-1]["type"]:
        fail(f"{adapter} is an adapter for {configs[0]['type']}, and {base} is a {configs[-1]['type']}")
    return configs[0] | {"use_peft": False}


def processors(folder):
    """The two files, and the statistics that they name."""
    paths = [folder / name for name in PROCESSORS if (folder / name).is_file()]
    steps = [(path, step) for path in paths for step in read_json(path).get("steps", [])]
    for path, state in [(path, step["state_file"]) for path, step in steps if step.get("state_file")]:
        if state != os.path.basename(state) or not (folder / state).is_file():
            fail(f"{path} names {state}, which is not beside it; copy the folder again")
        paths.append(folder / state)
    return paths


def merge(adapter_folder, base_folder, out):
    adapter_folder = find(adapter_folder, ADAPTER_CONFIG, ", which LeRobot writes of a PEFT adapter")
    config = read_config(adapter_folder / ADAPTER_CONFIG)
    if (adapter_folder / "adapter_model.bin").exists() and not (adapter_folder / ADAPTER_WEIGHTS).exists():
        fail(f"{adapter_folder}: adapter_model.bin is pickled, and reading that can run code: have PEFT save "
             f"{ADAPTER_WEIGHTS}")
    base_folder = find(base_folder, WEIGHTS, f"; the adapter was trained on {trained_on(config)} (if that is one of "
                       "the Hub, download it first: hf download OWNER/NAME --local-dir checkpoints/NAME)")
    adapter, base = TensorFile(adapter_folder / ADAPTER_WEIGHTS), TensorFile(base_folder / WEIGHTS)
    changes, scales = plan(adapter, config, base)
    settings = policy_config(adapter_folder, base_folder)
    own = processors(adapter_folder)
    copied = own or processors(base_folder)
    pairs = sum(len(change) > 1 for change in changes.values())
    described = ", ".join(f"rank {rank} with scale {scale:.4g}" for rank, scale in sorted(scales)) or "none"
    print(f"{adapter_folder}: trained on {trained_on(config)}, {pairs} tensors with LoRA ({described}), "
          f"{len(changes) - pairs} whole")
    if not copied:
        print(f"Neither folder has {' or '.join(PROCESSORS)}: copy them, and the files that they name, from where the "
              "adapter was trained")
    elif not own:
        print(f"{adapter_folder} has no processors, so {' and '.join(PROCESSORS)}, with the statistics, are those of "
              f"{base_folder}")
    copied += [path for name in EXPORTED if (path := base_folder / name).is_file()]

    with new_folder(out, base.data.size) as folder:
        write_weights(folder / WEIGHTS, changes, adapter, base)
        (folder / "config.json").write_text(json.dumps(settings, indent=4) + "\n")
        for path in copied:
            shutil.copyfile(path, folder / path.name)
    print(f"Next: build/bin/shallowpi-infer inspect {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage=argparse.SUPPRESS)
    parser.add_argument("adapter", type=pathlib.Path, metavar="ADAPTER", help="folder with adapter_config.json")
    parser.add_argument("--base", type=pathlib.Path, required=True, help="folder with model.safetensors")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder that is not there yet")
    args = parser.parse_args()
    if args.out.exists():
        fail(f"{args.out} is there already; give --out a new name, or delete it")
    import_packages()
    merge(args.adapter, args.base, args.out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was written")
