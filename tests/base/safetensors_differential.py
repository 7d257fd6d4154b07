#!/usr/bin/env python3
"""Compares our safetensors reader with Python's on random files: 2 000 valid and 2 000 mutated ones.

    safetensors_differential.py PATH_OF_safetensors_verdict [--seed N] [--count N]

Both must accept or refuse the same files. Intended differences, where ours alone refuses:
  - a header that does not begin with '{' (the format demands it; the reference skips white space),
  - the same name or key twice (the format forbids it; the reference keeps the last),
  - dtypes that LibTorch lacks (F4, F6_E2M3, F6_E3M2),
  - sizes of one dimension above 2^63 - 1, which only fit a tensor without elements,
  - more than 8 dimensions, more than 200 000 tensors, names of more than 1024 bytes or with control characters,
  - ignored fields that nest deeper than 64 levels (the reference allows 128),
  - a tensor written as a list, or a dtype as {"F32": null}, which are accidents of the reference's parser.
Also checks that what we write is byte for byte what Python writes (where Python's order is defined: it writes more
than one metadata entry in random order).
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
        "U64": 64}
NOT_IN_TORCH = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
NUMBERS = [0, 1, 2, 3, 7, 8, -1, 1.0, 1e3, 2**31, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, True, None,
           "1", [1], {}]


def random_name(rng):
    alphabet = "abcxyz._/0189 \"\\äß機"
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 12)))


def random_entries(rng):
    """Names to [dtype, shape, begin, end], covering the data from the first to the last byte."""
    entries, at = {}, 0
    for _ in range(rng.randint(0, 6)):
        dtype = rng.choice(list(BITS))
        shape = [rng.choice([0, 1, 1, 2, 3, 5]) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 8]))]
        size = int(np.prod(shape, dtype=np.int64)) * BITS[dtype] // 8
        if size > 4096:
            continue
        name = random_name(rng)
        if name not in entries:
            entries[name] = [dtype, shape, at, at + size]
            at += size
    items = list(entries.items())
    rng.shuffle(items)
    return dict(items), at


def header_of(rng, entries):
    header = {}
    if rng.random() < 0.4:
        header["__metadata__"] = rng.choice([None, {}, {"format": "pt"}, {random_name(rng): random_name(rng), "x": "é"}])
    for name, (dtype, shape, begin, end) in entries.items():
        fields = [("dtype", dtype), ("shape", shape), ("data_offsets", [begin, end])]
        if rng.random() < 0.1:
            fields.append(("extra", rng.choice([1, 2.5, None, "s", [1, {"a": []}], {"shape": [1]}, 10**30])))
        rng.shuffle(fields)
        header[name] = dict(fields)
    return header


def encode(rng, header):
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5, separators=rng.choice([(",", ":"), (", ", ": ")]))
    return text.encode() + b" " * rng.randint(0, 9)


def pack(header, data):
    return len(header).to_bytes(8, "little") + header + data


def valid_file(rng):
    entries, size = random_entries(rng)
    return pack(encode(rng, header_of(rng, entries)), rng.randbytes(size))


def mutate_field(rng, header):
    """One change of the header's meaning, the rest stays well formed."""
    names = [name for name in header if name != "__metadata__"]
    if not names or rng.random() < 0.1:
        header["__metadata__"] = rng.choice([1, [], "x", {"a": 1}, {"a": None}, {"a": {}}, True])
        return
    entry = header[rng.choice(names)]
    kind = rng.randrange(6)
    if kind == 0:
        entry["dtype"] = rng.choice([*BITS, *NOT_IN_TORCH, "f32", "F7", "", None, 1, ["F32"], {"F32": None}])
    elif kind == 1:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(NUMBERS)
    elif kind == 2:
        entry["shape"].insert(rng.randint(0, len(entry["shape"])), rng.choice(NUMBERS))
    elif kind == 3:
        del entry[rng.choice(["dtype", "shape", "data_offsets"])]
    elif kind == 4:
        shift = rng.choice([-4, -1, 1, 4, 2**32])
        entry["data_offsets"] = [entry["data_offsets"][0] + shift, entry["data_offsets"][1] + shift]
    else:
        header[rng.choice(names)] = rng.choice([None, 1, "x", [], list(entry.values()), {}])


def mutated_file(rng):
    entries, size = random_entries(rng)
    header = header_of(rng, entries)
    kind = rng.randrange(7)
    if kind <= 2:
        mutate_field(rng, header)
    text = bytearray(encode(rng, header))
    data = rng.randbytes(size)
    if kind == 3:  # bits of the header
        for _ in range(rng.randint(1, 3)):
            text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    elif kind == 4:  # pieces of the header
        at, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        piece = rng.choice([bytes(text[at:end][:30]), b"", b"\0", b"\xff", b"\\ud800", b"[", b"{", b'"', b"1e999", b"-0",
                            b"\xef\xbb\xbf", b" ", b",", b"01", b"[" * 200, b'"a":[' * 70])
        text[at:at + rng.choice([0, min(end - at, 10)])] = piece
    if kind == 5:  # the length of the header
        length = rng.choice([0, 7, len(text) - 1, len(text) + 1, len(text) + size, 100_000_001, 2**63, 2**64 - 1])
        return max(length, 0).to_bytes(8, "little") + bytes(text) + data
    whole = pack(bytes(text), data)
    if kind == 6:  # cut or longer
        cut = rng.randrange(len(whole))
        return whole[:cut] if rng.random() < 0.7 else whole + b"x" * rng.randint(1, 9)
    return whole


class Repeated(Exception):
    pass


def no_repeats(pairs):
    if len({key for key, _ in pairs}) != len(pairs):
        raise Repeated
    return dict(pairs)


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0


def intended(content):
    """Why ours alone refuses a file that Python accepts; None where it should not."""
    length = int.from_bytes(content[:8], "little")
    text = content[8:8 + length]
    if not text.startswith(b"{"):
        return "does not begin with '{'"
    try:
        header = json.loads(text, object_pairs_hook=no_repeats)
    except Repeated:
        return "repeated key"
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or not isinstance(entry["dtype"], str):
            return "accident of the reference's parser"
        if entry["dtype"] in NOT_IN_TORCH:
            return "dtype that LibTorch lacks"
        if len(entry["shape"]) > 8:
            return "more than 8 dimensions"
        if any(size > 2**63 - 1 for size in entry["shape"]):
            return "dimension above 2^63 - 1"
        if any(ord(c) < 32 or ord(c) == 127 for c in name):
            return "control character"
        if depth(entry) > 65:
            return "deep ignored field"
    return None


def python_verdict(path):
    try:
        with safe_open(path, framework="np"):
            return "accept"
    except Exception as error:  # the package raises several kinds
        return f"refuse: {error}"


def compare(binary, folder, contents):
    paths = []
    for index, content in enumerate(contents):
        paths.append(folder / f"{index}.safetensors")
        paths[-1].write_bytes(content)
    run = subprocess.run([binary], input="\n".join(map(str, paths)), capture_output=True, text=True, errors="replace",
                         check=True)
    ours = run.stdout.splitlines()
    if len(ours) != len(paths):
        sys.exit(f"{len(ours)} verdicts for {len(paths)} files")
    differences, tally = [], {"accept": 0, "refuse": 0}
    for path, content, our in zip(paths, contents, ours):
        python = python_verdict(path)
        same = our.split(":")[0] == python.split(":")[0]
        tally[our.split(":")[0]] += 1
        reason = None if same or our == "accept" else intended(content)
        if reason:
            tally[reason] = tally.get(reason, 0) + 1
        elif not same:
            differences.append(f"{content!r}\n    ours: {our}\n    Python: {python}")
    return differences, tally


def check_writer(binary, folder, rng):
    """Files that Python wrote, read and written again by us, must be the same bytes."""
    dtypes = ["bool", "uint8", "int8", "int16", "uint16", "float16", "int32", "uint32", "float32", "complex64",
              "float64", "int64", "uint64"]
    sources = []
    for index in range(200):
        tensors = {}
        for i in range(rng.randint(0, 9)):
            shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
            tensors[random_name(rng) + str(i)] = np.full(shape, i, rng.choice(dtypes))
        sources.append(folder / f"writer-{index}")
        sources[-1].write_bytes(save(tensors, rng.choice([None, {"format": "pt"}, {"a\n\x01": "é\"\\/\x7f"}])))
    subprocess.run([binary, "--rewrite"], input="\n".join(map(str, sources)), text=True, check=True)
    return [str(path) for path in sources if path.read_bytes() != path.with_name(path.name + ".rewritten").read_bytes()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        failures = []
        for kind, make in (("valid", valid_file), ("mutated", mutated_file)):
            differences, tally = compare(args.binary, folder, [make(rng) for _ in range(args.count)])
            print(f"{kind}: {tally}")
            failures += differences
            if kind == "valid" and tally["refuse"]:
                failures.append("a valid file was refused")
            if kind == "mutated" and not args.count // 2 <= tally["refuse"] < args.count:
                failures.append("the mutations do not exercise both verdicts")
        rewritten = check_writer(args.binary, folder, rng)
        print(f"written differently from Python: {len(rewritten)} of 200 files")
        failures += rewritten
    for failure in failures[:20]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
