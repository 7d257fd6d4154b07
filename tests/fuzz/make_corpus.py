#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets to corpus/TARGET/NAME; coverage.sh shows which lines they do not reach.

usage: make_corpus.py      needs: msgpack, numpy, Pillow
"""
import io
import json
import pathlib
import shutil
import struct

import msgpack
import numpy
from PIL import Image

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def write(target, seeds):
    folder = CORPUS / target
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, seed in seeds.items():
        (folder / name).write_bytes(seed if isinstance(seed, bytes) else seed.encode())


# ---- observations: a byte that chooses the policy (0 LIBERO, 1 ALOHA, 2 joints, 3 ALOHA with the camera "side"), a message


def array(value, dtype=None, **changed):
    """As openpi_client.msgpack_numpy sends it, members changed."""
    value = numpy.asarray(value, dtype)
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape,
            **{key.encode(): to for key, to in changed.items()}}


def scalar(value, **changed):
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str,
            **{key.encode(): to for key, to in changed.items()}}


def observations():
    pixel = numpy.arange(3, dtype=numpy.uint8)
    image, planes = pixel.reshape(1, 1, 3), pixel.reshape(3, 1, 1)
    libero = {"observation/image": array(image), "observation/wrist_image": array(image),
              "observation/state": array(numpy.arange(8) / 8), "prompt": "pick up"}
    aloha = {"state": array(numpy.arange(14), "f4"), "prompt": "fold",
             "images": {name: array(planes) for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")}}
    droid = {"observation/exterior_image_1_left": array(image), "observation/wrist_image_left": array(image),
             "observation/joint_position": array([0.5, 1.0]), "observation/gripper_position": 1,
             "prompt": b"open"}

    def changed(base, **changes):
        return {**base, **{key.replace("__", "/"): value for key, value in changes.items()}}

    def image_of(value, dtype=None, **members):
        return changed(libero, observation__image=array(value, dtype, **members))

    def state_of(value):
        return changed(libero, observation__state=value)

    def prompt_of(value):
        return changed(libero, prompt=value)

    good = {"libero": libero, "aloha": aloha, "droid": droid}
    policy = {"libero": 0, "aloha": 1, "droid": 2, "side": 3}
    messages = {name: (policy[name], message) for name, message in good.items()}

    def add(name, message, kind="libero"):
        messages[name] = (policy[kind], message)

    add("options", changed(libero, noise=array(numpy.zeros((1, 3, 16)), "f4"), num_steps=5, timestamp=1.5e9,
                           prefix_actions=array(numpy.ones((2, 7)), "f2")))
    add("joints_nested", {"observation": {"image": array(image), "wrist_image": array(image)},
                          "state": [0, 0.5, scalar(numpy.float32(1))], "prompt": "x"}, "droid")
    add("joints_flat_state", {**{k: v for k, v in droid.items() if "position" not in k},
                              "observation/state": array([1, 2, 3], "i2")}, "droid")
    add("no_gripper", {k: v for k, v in droid.items() if "gripper" not in k}, "droid")
    add("no_state", {k: v for k, v in libero.items() if "state" not in k})
    add("no_image", {k: v for k, v in libero.items() if "wrist" not in k})
    add("no_prompt", {k: v for k, v in libero.items() if k != "prompt"})
    add("unknown_camera", changed(aloha, images={"cam_hihg": array(planes)}), "aloha")
    add("own_camera", changed(aloha, images={"cam_high": array(planes), "side": array(planes)}), "side")
    add("no_cameras", changed(aloha, images=None), "aloha")
    for dtype in ("f8", "f4", "f2"):
        add(f"image_{dtype}", image_of(pixel.reshape(1, 1, 3) / 2, dtype))
    add("image_too_bright", image_of([[[0, 0.5, 2]]]))
    add("image_nan", image_of([[[0, 0.5, numpy.nan]]], "f4"))
    add("image_int", image_of([[[0, 1, 2]]], "i4"))
    add("image_flat", image_of([1, 2, 3], "u1"))
    add("image_empty", image_of(numpy.zeros((0, 4, 3), "u1")))
    jpeg = io.BytesIO()
    Image.fromarray(numpy.full((8, 8, 3), 90, "u1")).save(jpeg, "JPEG")
    add("image_jpeg", changed(libero, observation__image=jpeg.getvalue()))
    add("image_jpeg_cut", changed(libero, observation__image=jpeg.getvalue()[:300]))
    add("image_text", changed(libero, observation__image="no array"))
    for dtype in ("i8", "i4", "i1", "u8", "u4", "u2", "u1", "?"):
        add(f"state_{dtype.replace('?', 'b1')}", state_of(array(numpy.ones(8), dtype)))
    add("state_nan", state_of(array([numpy.inf] * 8)))
    add("state_short", state_of([1.0]))
    add("state_scalar", state_of(1))
    add("state_text", state_of(array(["a"] * 8)))
    add("state_2d", state_of(array(numpy.ones((2, 4)))))
    add("state_long", state_of(array(numpy.ones(1025), "u1")))
    add("state_list_of_text", state_of(["a"]))
    add("prompt_array", prompt_of(array("h\u00e9\u20ac\U0001f600")))
    add("prompt_bytes_array", prompt_of(array(b"pick")))
    add("prompt_number", prompt_of(3))
    add("prompt_empty", prompt_of(""))
    add("prompt_not_utf8", prompt_of(b"\xed\xa0\x80"))
    add("prompt_surrogate", prompt_of(array("abcd", data=b"\x00\xd8\x00\x00" * 4)))
    add("noise_width", changed(libero, noise=array(numpy.zeros((3, 15)))))
    add("noise_steps", changed(libero, noise=array(numpy.zeros((2, 16)), "f2")))
    add("noise_list", changed(libero, noise=[0]))
    add("num_steps_many", changed(libero, num_steps=21))
    add("prefix_long", changed(libero, prefix_actions=array(numpy.ones((3, 7)), "f4")))
    add("prefix_empty", changed(libero, prefix_actions=array(numpy.ones((0, 7)), "f4")))
    add("timestamp_array", changed(libero, timestamp=array([3], "i8")))
    add("timestamp_text", changed(libero, timestamp="now"))

    for name, value in {
            "array_object": array([1], "f4") | {b"dtype": "|O"}, "array_big_endian": array([1], ">f4"),
            "array_void": array([1], "f4") | {b"dtype": "<V4"}, "array_f3": array([1], "f4") | {b"dtype": "<f3"},
            "array_digits": array([1], "f4") | {b"dtype": "<f4x"}, "array_zero": array([1], "f4") | {b"dtype": "<U0"},
            "array_no_dtype": array([1], "f4") | {b"dtype": 4}, "array_negative": array([1], "f4", shape=[-1]),
            "array_wraps": array([1], "f4", shape=[1 << 62, 1 << 62]), "array_short": array([1], "f4", shape=[2]),
            "array_rank": array([1], "f4", shape=[1] * 9), "array_rank_8": array([1], "f4", shape=[1] * 8),
            # Nothing in it, but its sides multiply beyond 63 bits, or to more rows than there is memory for.
            "array_empty_wraps": array([], "u1", shape=[1 << 62, 2, 0]),
            "array_empty_large": array([], "u1", shape=[1 << 40, 0]),
            "scalar": scalar(numpy.int16(3)), "scalar_of_map": scalar(numpy.int16(3), data={}),
            "plain": [None, True, -1, 1.5, 2.0**64, b"bytes", {"a": {b"b": []}}, [0] * 20]}.items():
        add(name, {"a": value})
    seeds = {name: bytes([kind]) + msgpack.packb(message) for name, (kind, message) in messages.items()}
    seeds |= {name: b"\0" + bytes.fromhex(message) for name, message in {
        "float32": "81a161ca3fc00000", "beyond_63_bits": "81a161cfffffffffffffffff", "extension": "d40000",
        "not_utf8": "a2c328", "not_msgpack": "c1", "cut": "81a161", "trailing": "0101", "number_key": "810102", "bytes_key_not_utf8": "81c401ff02",
        "key_twice": "82a16101a16102", "key_control": "81a31b5b3281a161d40000", "many": "dd00100000", "text": "a161",
        "many_pairs": "df00100000", "deep": "91" * 17, "list_key": "819001", "utf8": "aec3a9e0a080e282acf0908080f09f9880"}.items()}
    return seeds


# ---- safetensors headers: the size of the data, a newline, the header


def safetensors_headers():
    def header(size, tensors):
        return f"{size}\n" + (tensors if isinstance(tensors, str) else json.dumps(tensors))

    def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    seeds = {
        "two": header(14, {"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 1], [0, 8]),
                           "b": tensor("BF16", [3], [8, 14])}),
        "empty": header(0, {}), "scalar": header(8, {"a": tensor("I64", [], [0, 8])}),
        "no_elements": header(0, {"a": tensor("U8", [0, 7], [0, 0])}),
        "metadata_null": header(0, {"__metadata__": None}),
        "ignored_fields": header(4, {"a": {"x": {"deep": [1, {"y": None}, "z", True, -1, 1.5]}, "n": None, "f": 0.5,
                                           **tensor()}}),
        "overlap": header(4, {"a": tensor(), "b": tensor()}), "hole": header(8, {"a": tensor(offsets=[4, 8])}),
        "beyond": header(3, {"a": tensor()}), "trailing": header(5, {"a": tensor()}),
        "backwards": header(4, {"a": tensor(offsets=[4, 0])}), "bytes_differ": header(4, {"a": tensor(shape=[2])}),
        "offsets_one": header(4, {"a": tensor(offsets=[4])}),
        "overflow": header(4, {"a": tensor(shape=[1 << 62, 1 << 62])}),
        "overflow_bytes": header(4, {"a": tensor("F64", shape=[1 << 62])}),
        "rank_9": header(4, {"a": tensor(shape=[1] * 9)}),
        "dtype_unknown": header(4, {"a": tensor("F33")}), "dtype_f4": header(4, {"a": tensor("F4")}),
        "dtype_number": header(4, {"a": {**tensor(), "dtype": 4}}),
        "no_dtype": header(4, '{"a":{"shape":[1],"data_offsets":[0,4]}}'),
        "no_shape": header(4, '{"a":{"dtype":"F32","data_offsets":[0,4]}}'),
        "no_offsets": header(4, '{"a":{"dtype":"F32","shape":[1]}}'),
        "shape_negative": header(4, {"a": tensor(shape=[-1])}), "shape_float": header(4, {"a": tensor(shape=[1.0])}),
        "shape_nested": header(4, {"a": tensor(shape=[[1]])}), "shape_object": header(4, {"a": tensor(shape={})}),
        "shape_bool": header(4, {"a": tensor(shape=[True])}),
        "name_twice": header(4, '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}'),
        "key_twice": header(4, '{"a":{"dtype":"F32","dtype":"F32"}}'), "tensor_text": header(0, '{"a":"b"}'),
        "metadata_number": header(0, '{"__metadata__":{"a":1}}'), "metadata_list": header(0, '{"__metadata__":[]}'),
        "name_control": header(0, '{"a\\u0001":{}}'), "name_long": header(0, '{"%s":{}}' % ("a" * 1025)),
        "deep": header(0, '{"a":{"x":' + "[" * 65), "list": header(0, "[]"), "not_json": header(0, "{x}"),
        "nul": header(0, "{}\0"), "number": header(0, "3"), "surrogate": header(0, '{"__metadata__":{"a":"\\ud800"}}')}
    sizes = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "I32": 4, "U32": 4,
             "C64": 8, "F64": 8, "U64": 8}
    tensors, end = {}, 0
    for dtype, size in sizes.items():
        tensors[dtype] = tensor(dtype, [1], [end, end + size])
        end += size
    return seeds | {"dtypes": header(end, tensors)}


# ---- norm_stats.json


def norm_stats():
    feature = {"mean": [0, 0.5], "std": [1, 1e-3], "q01": [-1.0, 0.0], "q99": [1.0, 2.5e0]}

    def stats(**changed):
        return {"norm_stats": {"state": feature, "actions": {**feature, **changed}}}

    plain = {"mean": [1], "std": [2]}
    seeds = {"quantiles": stats(), "no_quantiles": {"norm_stats": {"state": plain, "actions": {**plain, "q01": None}}},
             "one_quantile": stats(q01=None), "mean_empty": stats(mean=[]), "std_empty": stats(std=[]),
             "std_short": stats(std=[1]), "std_negative": stats(std=[1, -1]), "std_text": stats(std="1"),
             "mean_of_text": stats(mean=["a", "b"]), "mean_null": stats(mean=None), "feature_list": {"norm_stats": {"state": []}},
             "no_actions": {"norm_stats": {"state": feature}}, "list": [], "escapes": {"\u00e9\n\t\"\\\U0001f600": [True, False]},
             "lerobot": {"observation.state": {"mean": [0]}}}
    seeds = {name: json.dumps(seed) for name, seed in seeds.items()}
    return seeds | {
        "infinite": json.dumps(stats(mean=[0, 1])).replace("[0, 1]", "[0, 1e999]"), "not_json": '{"norm_stats": nope}',
        "cut": '{"norm_stats": {"state"', "key_twice": '{"a": 1, "a": 2}', "huge_integer": '{"a": 123456789012345678901}',
        "deep": "[" * 65, "nul": '{"a": 1}\0{}', "bom": b"\xef\xbb\xbf{}", "not_utf8": b'{"a": "\xff"}', "nothing": "",
        "numbers": "[0, -1, 1.5, -2e-3, 18446744073709551615, null]", "lines": '{\n"a":\n[1,\n}',
        "true": '{"a": true}', "integer": '{"a": 18446744073709551615}', "text": '{"a": "b"}', "small": '{"a": -3}'}


# ---- configurations


def configs():
    scratch = "output_dir: runs/x\ndata: {files: demos/*.hdf5}\npolicy: {image_keys: [base_0_rgb]}\n"
    teacher = "output_dir: runs/x\ndata: {files: [a.hdf5, {path: b.hdf5, weight: 0.5}]}\nteacher: {checkpoint: t}\n"
    return {
        "scratch": scratch, "teacher": teacher + "student: {layers: 6, layer_map: endpoints}\ndevice: cuda:1\n",
        "lists": teacher + "student: {layer_map: [0, 2]}\noptimizer: {freeze: [\"vision*\", 'x']}\n"
                 "policy:\n  robot: {delta_mask: [6, -1], action_dim: 7, state_dim: 8}\n",
        "bools": teacher + "policy.robot.delta_mask: [true, false]\ntrain.keep_every: 3\ntrain.save_every: 2\n",
        "base": teacher + "base: base.yaml\n", "base_missing": "base: nothing.yaml\n", "base_list": "base: [a]\n",
        "set": teacher + "#set train.steps=5\n#set =\n#set train=3\n#set nope=1\n#set teacher.checkpoint=pick: the cup\n"
               "#set loss.kd=[\n#set train.batch_size=a: b: c\n#set output_dir=\"quoted\"\n#set seed='1'\n",
        "bad_values": teacher + "seed: -1\nthreads: x\ndtype: float16\ndevice: tpu\nloss: {kd: .inf, task: 1e999, attn: -1}\n"
                      "data: {files: [], format: hdf5, augment: yes, held_out_fraction: 2}\n"
                      "optimizer: {beta1: 1, freeze: all, peak_lr: 0}\nstudent: {layer_map: none}\n",
        "bad_lists": "student: {layer_map: []}\npolicy: {image_keys: a, robot: {delta_mask: [0]}}\n"
                     "data: {files: [{path: a, size: 1}]}\n",
        "bad_files": "data: {files: [{weight: 1}]}\n", "bad_weight": "data: {files: [{path: a, weight: 0}]}\n",
        "mask_text": "policy: {robot: {delta_mask: x, kind: aloha}}\n",
        "contradictions": teacher + "student: {layers: 2, layer_map: [3, 1, 1], architecture: {backbone: {depth: 2}}}\n"
                          "train: {batch_size: 3, accumulate: 2, eval_every: 5, save_every: 2, keep_every: 3}\n"
                          "data: {held_out_fraction: 0}\noptimizer: {end_lr: 1, peak_lr: 0.5, warmup_steps: 9, decay_steps: 3}\n"
                          "loss: {task: 0, kd: 0, attn: 0}\npolicy: {image_keys: [a, a], robot: {delta_mask: [32]}}\n",
        "scratch_bad": scratch + "student: {layers: 99, layer_map: [0], architecture: {vision: {image_size: 3}}}\nloss.kd: 1\n"
                       "loss.attn: 1\n",
        "one_layer": teacher + "student: {layers: 1, layer_map: endpoints}\n", "unset": "seed: 1\n",
        "null_values": "output_dir:\ntrain:\nseed: ~\n", "group": "train: 3\n", "list": "- a\n- b\n", "scalar": "word\n",
        "nothing": "", "unknown": "trian: {steps: 1}\nsteps: 2\nzzzzzzzzzzzz: 1\ntrain: {stepz: 3}\n",
        "twice": "seed: 1\nseed: 2\ntrain: {steps: 1}\ntrain.steps: 2\n", "alias": "a: &x 1\nb: *x\n", "tag": "seed: !!int 3\n",
        "tab": "train:\n\tsteps: 1\n", "nul": "seed: 1\0", "key_list": "? [a]\n: 1\n", "documents": "seed: 1\n---\nseed: 2\n",
        "deep": "[" * 17 + "]" * 17, "cut": "train: {steps: 1", "quotes": "output_dir: \"a\\x41\\n\"\nseed: '1'\n",
        "block": "output_dir: |\n  two\n  lines\nteacher:\n  checkpoint: >-\n    folded\n    text\n",
        "specials": "loss: {task: +.inf, kd: .nan, attn: nan}\n", "odd_kinds": "seed: [1]\nloss: {kd: {a: 1}}\ndtype: [x]\n"}


# ---- SentencePiece models: the length of a prompt, the prompt, a model (protobuf, written by hand)


def varint(value):
    out = b""
    while True:
        out += bytes([value & 127 | (128 if value > 127 else 0)])
        value >>= 7
        if not value:
            return out


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tokenizers():
    normal, unknown, control, user, unused, byte = 1, 2, 3, 4, 5, 6

    def model(pieces, kind, trainer=b"", normalizer=field(1, "identity") + field(3, 0) + field(4, 0) + field(5, 1)):
        out = b"".join(field(1, field(1, piece) + field(2, score) + (field(3, type_) if type_ != normal else b""))
                       for piece, score, type_ in pieces)
        return out + field(2, field(3, kind) + trainer) + field(3, normalizer)

    special = [("<pad>", 0.0, control), ("</s>", 0.0, control), ("<s>", 0.0, control), ("<unk>", 0.0, unknown)]
    words = [(piece, -float(i), normal) for i, piece in enumerate("\u2581 T a s k : ta sk task 0 1 ; A".split())]
    newline = [("\n", 0.0, user)]
    bytes_ = [(f"<0x{value:02X}>", 0.0, byte) for value in range(256)]
    unigram, bpe, word, char = 1, 2, 3, 4
    fallback = field(35, 1)
    good = special + newline + words

    def seed(model_, prompt="pick up_the\ncup "):
        prompt = prompt.encode() if isinstance(prompt, str) else prompt
        return bytes([len(prompt)]) + prompt + model_

    def normalizer(charsmap):
        return field(1, "nfkc") + field(2, charsmap)

    return {
        "bpe": seed(model(good, bpe)), "unigram": seed(model(good, unigram)), "word": seed(model(good, word)),
        "char": seed(model(good, char)), "bytes": seed(model(good + bytes_, bpe, fallback), "\u20ac task"),
        "bytes_missing": seed(model(good + bytes_[:5], bpe, fallback)), "no_bos": seed(model(special[:2] + special[3:] + words, bpe)),
        "no_unknown": seed(model(special[:3] + words, bpe)), "twice": seed(model(good + words[:1], bpe)),
        "empty_piece": seed(model(good + [("", 0.0, normal)], bpe)), "unused": seed(model(good + [("zz", 0.0, unused)], bpe), "zz"),
        "kind_unknown": seed(model(good, 9)), "not_a_model": seed(b"\xff\xff\xff"), "no_model": seed(b""), "nothing": b"",
        "prompt_only": b"\x09task", "prompt_not_utf8": seed(model(good, bpe), b"ta\xff\xc3sk"), "prompt_empty": seed(model(good, bpe), ""),
        "prompt_long": seed(model(good, bpe), "t" * 250), "nan_score": seed(model(good + [("ab", float("nan"), normal)], unigram), "ab"),
        "charsmap": seed(model(good, bpe, normalizer=normalizer(struct.pack("<I", 8) + b"\x01\x02\x03\x04\xff\xff\xff\xff" + b"a\0"))),
        "charsmap_short": seed(model(good, bpe, normalizer=normalizer(b"\xff\xff\xff\xff"))),
        "nested": seed(model(good + [("~" * length, 0.0, user) for length in range(1, 66)], bpe), "~" * 70),
        "nul": seed(model(good + [("a\0b", 0.0, user), ("a\0c", 0.0, user)], bpe), "a"),
        "group": seed(b"\x0b"), "cut_piece": seed(field(1, b"\x0a\x05")), "endless": seed(b"\xff" * 11),
        "fixed64": seed(field(9, b"x") + b"\x51" + bytes(8) + model(good, bpe)),
        "byte_piece_wrong": seed(model(good + [("<0xZZ>", 0.0, byte)], bpe, fallback))}


if __name__ == "__main__":
    write("observation", observations())
    write("safetensors_header", safetensors_headers())
    write("norm_stats", norm_stats())
    write("config", configs())
    write("tokenizer", tokenizers())
    for folder in sorted(CORPUS.iterdir()):
        sizes = [file.stat().st_size for file in folder.iterdir()]
        print(f"{folder.name}: {len(sizes)} seeds, {sum(sizes)} bytes")
