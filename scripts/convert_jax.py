#!/usr/bin/env python3
"""Converts one of openpi's JAX checkpoints into the folder that openpi's PyTorch code and shallowpi load.

    scripts/convert_jax.py CHECKPOINT --out FOLDER [--horizon H] [--dtype float32|bfloat16]
    scripts/convert_jax.py ~/.cache/openpi/openpi-assets/checkpoints/pi05_libero --out checkpoints/libero --horizon 10

CHECKPOINT is a folder with params/, and with assets/ where there are statistics of the robot: what openpi's downloads
leave in ~/.cache/openpi/openpi-assets/checkpoints/NAME, or what its training writes to checkpoints/CONFIG/RUN/STEP. The
tensors themselves tell pi0 from pi0.5 and every size. LoRA tensors are merged into the weights that they belong to.
Needs numpy and tensorstore (pip install tensorstore), but neither JAX nor openpi, and memory for the largest JAX array
twice: 10 GB for the released policies.
"""
import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import struct
import sys

from weights_folder import Progress, fail, few, new_folder

VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
PROJECTOR = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear"
EMBED_TOKENS = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
TIED_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"  # embed_tokens' twin, the one that openpi stores
EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"  # nothing reads it, but openpi's loader asks for it
# openpi's names for widths and MLP widths. Its LoRA variants have rank = alpha, so a scale of 1.
VARIANTS = {(2048, 16384): "gemma_2b", (1024, 4096): "gemma_300m", (64, 128): "dummy"}
LORA_RANKS = {"W": 16, "E": 32}
DTYPES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}  # safetensors' names, bytes
ARRAY_FILES = {".zarray": "zarr", "zarr.json": "zarr3"}  # what an array's folder has, and tensorstore's driver for it
UNFINISHED = "orbax-checkpoint-tmp"  # in the name of a folder that orbax was writing to
MAX_HORIZON = 10000  # as in include/shallowpi/base/policy_spec.h


def import_packages():
    """After the arguments are read, so that --help needs none of them."""
    global np, ts
    try:
        import numpy as np
        import tensorstore as ts
    except ModuleNotFoundError as error:
        fail(f"{error}; pip install tensorstore")


@dataclasses.dataclass
class Row:
    """One JAX array and what becomes of it.

    Axes: L layers, W width and M MLP width (E and F in the expert), N query heads, K key-value heads, H channels per
    head, X vocabulary, A action width; in the vision tower l layers, V width, U MLP width, n heads, h channels per
    head, T tokens, y pixels on a patch's side, C colours. 3E is thrice E, 1E is E beside another E, 1 and 2 count the
    targets."""

    jax: str
    axes: str  # of the JAX array; L, l, 1 and 2 are taken apart
    out: str  # of a target; * puts axes together
    targets: list[str]  # openpi's PyTorch names, {} for the layer
    spec: dict = None  # what tensorstore opens
    shape: tuple = ()
    dtype: str = ""
    lora: tuple = ()  # the specs of lora_a and lora_b
    lora_scale: float = 1

    def layers(self):
        return self.shape[0] if split(self.axes)[0] in "Ll" else None

    def inner_axes(self):
        return [axis for axis in split(self.axes) if axis not in ("L", "l", "1", "2")]

    def rearrange(self, x):
        order = [self.inner_axes().index(axis) for axis in split(self.out)]
        return x.transpose(order).reshape(self.out_shape())

    def out_shape(self):
        axes = self.inner_axes()
        size = dict(zip(axes, self.shape[-len(axes):]))
        return [math.prod(size[axis] for axis in group.split("*")) for group in self.out.split()]


def split(axes):
    return axes.replace("*", " ").split()


def linear(jax, torch, into, out, stack=""):
    """Flax keeps a kernel as [in, out], PyTorch a weight as [out, in]."""
    return [Row(f"{jax}/kernel", f"{stack} {into} {out}", f"{out} {into}", [f"{torch}.weight"]),
            Row(f"{jax}/bias", f"{stack} {out}", out, [f"{torch}.bias"])]


def vision_rows():
    """openpi's src/openpi/models/siglip.py, where all layers are one scan."""
    block, layer = "img/Transformer/encoderblock", VISION + "encoder.layers.{}"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    rows = [Row("img/embedding/kernel", "y 1y C V", "V C y 1y", [VISION + "embeddings.patch_embedding.weight"]),
            Row("img/embedding/bias", "V", "V", [VISION + "embeddings.patch_embedding.bias"]),
            Row("img/pos_embedding", "1 T V", "T V", [VISION + "embeddings.position_embedding.weight"])]
    for jax, torch, stack in ((f"{block}/LayerNorm_0", f"{layer}.layer_norm1", "l "),
                              (f"{block}/LayerNorm_1", f"{layer}.layer_norm2", "l "),
                              ("img/Transformer/encoder_norm", VISION + "post_layernorm", "")):
        rows += [Row(f"{jax}/scale", f"{stack}V", "V", [f"{torch}.weight"]),
                 Row(f"{jax}/bias", f"{stack}V", "V", [f"{torch}.bias"])]
    for jax, torch in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        rows += linear(f"{attention}/{jax}", f"{layer}.self_attn.{torch}", "V", "n*h", "l")
    rows += linear(f"{attention}/out", f"{layer}.self_attn.out_proj", "n*h", "V", "l")
    rows += linear(f"{block}/MlpBlock_0/Dense_0", f"{layer}.mlp.fc1", "V", "U", "l")
    rows += linear(f"{block}/MlpBlock_0/Dense_1", f"{layer}.mlp.fc2", "U", "V", "l")
    return rows + linear("img/head", PROJECTOR, "V", "W")


def gemma_rows(expert, torch, width, mlp, adaptive):
    """openpi's src/openpi/models/gemma.py; `expert` is the suffix of its names. An adaptive norm (pi0.5's expert) has a
    dense layer to scale, shift and gate instead of a scale."""
    attn, mlps, layer = "llm/layers/attn/", f"llm/layers/mlp{expert}/", torch + "layers.{}."
    rows = [Row(f"{attn}q_einsum{expert}/w", f"L N {width} H", f"N*H {width}", [layer + "self_attn.q_proj.weight"]),
            Row(f"{attn}kv_einsum{expert}/w", f"L 2 K {width} H", f"K*H {width}",
                [layer + "self_attn.k_proj.weight", layer + "self_attn.v_proj.weight"]),
            Row(f"{attn}attn_vec_einsum{expert}/w", f"L N H {width}", f"{width} N*H",
                [layer + "self_attn.o_proj.weight"]),
            Row(f"{mlps}gating_einsum", f"L 2 {width} {mlp}", f"{mlp} {width}",
                [layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight"]),
            Row(f"{mlps}linear", f"L {mlp} {width}", f"{width} {mlp}", [layer + "mlp.down_proj.weight"])]
    for jax, name, stack in ((f"llm/layers/pre_attention_norm{expert}", layer + "input_layernorm", "L"),
                             (f"llm/layers/pre_ffw_norm{expert}", layer + "post_attention_layernorm", "L"),
                             (f"llm/final_norm{expert}", torch + "norm", "")):
        if adaptive:
            rows += linear(f"{jax}/Dense_0", f"{name}.dense", width, f"3{width}", stack)
        else:
            rows.append(Row(f"{jax}/scale", f"{stack} {width}", width, [f"{name}.weight"]))
    return rows


def policy_rows(pi05):
    rows = vision_rows() + [Row("llm/embedder/input_embedding", "X W", "X W", [TIED_HEAD])]
    rows += gemma_rows("", "paligemma_with_expert.paligemma.model.language_model.", "W", "M", False)
    rows += gemma_rows("_1", "paligemma_with_expert.gemma_expert.model.", "E", "F", pi05)
    projections = {"action_in_proj": ("A", "E"), "action_out_proj": ("E", "A")}
    if pi05:
        projections |= {"time_mlp_in": ("1E", "E"), "time_mlp_out": ("1E", "E")}
    else:
        projections |= {"state_proj": ("A", "E"), "action_time_mlp_in": ("2E", "E"), "action_time_mlp_out": ("1E", "E")}
    for name, (into, out) in projections.items():
        rows += linear(name, name, into, out)
    return rows


def has_arrays(params):
    """With OCDBT, as orbax writes by default, or with one folder for each array, as it did before."""
    return (params / "manifest.ocdbt").is_file() or any(any(params.glob(f"*/{name}")) for name in ARRAY_FILES)


def step_number(params):
    """Later training steps come last: 10000 after 9000."""
    return [(len(part), part) for part in params.parts]


def find_params(text):
    """CHECKPOINT/params, or what to do instead."""
    folder = pathlib.Path(text)
    if "://" in text:
        fail(f"{text} has to be downloaded first; openpi's are public: gsutil -m cp -r {text} .")
    if not folder.exists():
        fail(f"{folder}: there is no such folder")
    if not folder.is_dir():
        fail(f"{folder} is a file; give the checkpoint's folder, the one with params/ in it")
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).exists():
            fail(f"{folder} has {name}, so it needs no conversion: shallowpi's programs take it as it is")
    folder = folder.resolve()
    if has_arrays(folder / "params"):
        return folder / "params"
    below = [path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/params")
             if has_arrays(path) and UNFINISHED not in str(path)]
    above = [parent / "params" for parent in list(folder.parents)[:3] if has_arrays(parent / "params")]
    if found := sorted(below, key=step_number) or above[:1]:
        fail(f"{folder} has no params/ with arrays in it; did you mean {found[-1].parent}?")
    if UNFINISHED in str(folder):
        fail(f"{folder} was not written to its end; take an earlier step")
    if (folder / "params").is_dir():
        fail(f"{folder / 'params'} has neither manifest.ocdbt nor arrays: download or copy the checkpoint again")
    if (folder / "train_state").is_dir():
        fail(f"{folder} has only train_state/, with which training resumes: copy the params/ beside it, too")
    fail(f"{folder} is none of openpi's JAX checkpoints: those have params/ in them")


def list_arrays(params):
    """{name, such as llm/layers/attn/q_einsum/w: what tensorstore opens}. Arrays that nnx wrote end in /value."""
    store = {"driver": "file", "path": f"{params}/"}
    if (params / "manifest.ocdbt").is_file():
        store = {"driver": "ocdbt", "base": store, "path": ""}
    arrays = {}
    for key in ts.KvStore.open(store).result().list().result():
        array, _, file = key.decode().rpartition("/")
        if file in ARRAY_FILES:
            name = array.replace(".", "/").removeprefix("params/").removesuffix("/value").removeprefix("PaliGemma/")
            # A chunk that is lost would else be read as zeros; orbax stores those that are zeros.
            arrays[name] = {"driver": ARRAY_FILES[file], "kvstore": {**store, "path": f"{store['path']}{array}/"},
                            "fill_missing_data_reads": False, "recheck_cached_data": "open"}
    return arrays


def open_array(spec, cache_bytes=0):
    return ts.open(spec, read=True, context=ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})).result()


def is_pi05(arrays, params):
    if "time_mlp_in/kernel" in arrays:
        return True
    if "state_proj/kernel" in arrays:
        return False
    if "llm/embedder/input_embedding" in arrays:
        fail(f"{params} holds no action expert: it is pi0-FAST or PaliGemma, and only pi0 and pi0.5 can be converted")
    has = few(sorted(arrays)) or "no arrays"
    fail(f"{params} is neither pi0 nor pi0.5, which have state_proj or time_mlp_in; it has {has}")


def parse(axis):
    """(3, "E") of 3E, (1, "E") of E and (2, "") of 2."""
    factor, letter = re.fullmatch(r"(\d*)([A-Za-z]?)", axis).groups()
    return int(factor or 1), letter


def fits(axes, shape, sizes):
    """Whether an array can have this shape. Sizes that were not known are known from now on."""
    if len(axes) != len(shape):
        return False
    for (factor, letter), size in zip(map(parse, axes), shape):
        if size % factor or sizes.setdefault(letter, size // factor) != size // factor:
            return False
    return True


def expected_shape(axes, sizes):
    parts = ((axis, *parse(axis)) for axis in axes)
    return f"({', '.join(str(factor * sizes[letter]) if letter in sizes else axis for axis, factor, letter in parts)})"


def add_lora(row, arrays, alpha):
    """Finds row's lora_a and lora_b and their scale, as in openpi's src/openpi/models/lora.py."""
    stem = row.jax.removesuffix("w") if row.jax.endswith("/w") else row.jax + "_"
    names = [f"{stem}lora_{part}" for part in "ab"]
    if not any(name in arrays for name in names):
        return
    if not all(name in arrays for name in names):
        fail(f"of {names[0]} and {names[1]} only one is there; save the checkpoint again")
    row.lora = tuple(arrays.pop(name) for name in names)
    shapes = [tuple(open_array(spec).shape) for spec in row.lora]
    rank, (rows, columns) = shapes[0][-1], row.shape[-2:]
    if shapes != [(*row.shape[:-1], rank), (*row.shape[:-2], rank, columns)]:
        fail(f"{names[0]} and {names[1]} have the shapes {shapes[0]} and {shapes[1]}, which do not fit {row.shape}")
    if not row.jax.endswith("/w"):
        return  # openpi scales those of attention only
    usual = LORA_RANKS["E" if "_1/" in row.jax else "W"]
    if alpha is None and rank != usual:
        fail(f"{names[0]} has rank {rank}, openpi's {usual}. The checkpoint does not say alpha: give your LoRAConfig's "
             "with --lora-alpha")
    row.lora_scale = 1 if alpha is None else alpha / rank


def find_rows(params, alpha):
    """Every array that the policy has, with sizes that fit each other, and what the letters of their axes are."""
    arrays = list_arrays(params)
    rows = policy_rows(is_pi05(arrays, params))
    # What a PyTorch folder cannot state is as in the released policies: heads, and one number is taken as one.
    sizes = {"N": 8, "K": 1, "n": 16, "C": 3, "": 1}
    missing, wrong = [], []
    for row in rows:
        row.spec = arrays.pop(row.jax, None)
        if row.spec is None:
            missing.append(row.jax)
            continue
        array = open_array(row.spec)
        row.shape, row.dtype = tuple(array.shape), array.dtype.name
        if not fits(split(row.axes), row.shape, sizes):
            wrong.append(f"{row.jax} {row.shape} instead of {expected_shape(split(row.axes), sizes)}")
        elif row.dtype not in DTYPES:
            wrong.append(f"{row.jax} of type {row.dtype} instead of {' or '.join(DTYPES)}")
        else:
            add_lora(row, arrays, alpha)
    if missing:
        fail(f"{params} lacks {len(missing)} of the policy's arrays: {few(missing)}. Download or copy it again")
    if wrong:
        fail(f"{params} has arrays that do not fit a policy of openpi: {few(wrong)}")
    if lora := [name for name in arrays if "lora" in name]:
        fail(f"{params} has LoRA arrays where openpi has none, and they cannot be merged: {few(sorted(lora))}")
    if arrays:
        print(f"warning: left out, since openpi's policy has no such arrays: {few(sorted(arrays))}", file=sys.stderr)
    return rows, sizes


def merged(row, x, a, b):
    """x [..., rows, columns] + scale a [..., rows, rank] b [..., rank, columns], in float32. In attn_vec_einsum
    [N, H, W] openpi's einsums sum over the heads before b, and then over those of b: every head gets the same b."""
    if "attn_vec_einsum" in row.jax:
        b = b.astype(np.float64).sum(axis=0, keepdims=True)
    return (x.astype(np.float64) + row.lora_scale * (a.astype(np.float64) @ b.astype(np.float64))).astype(np.float32)


def read_targets(row):
    """Yields what becomes of a JAX array, target by target of each layer."""
    # A chunk may hold several layers: it is kept until all of them are read.
    array = open_array(row.spec, 2 * math.prod(row.shape) * DTYPES[row.dtype][1])
    lora = [open_array(spec).read().result() for spec in row.lora]
    for layer in (...,) if row.layers() is None else range(row.layers()):
        x = array[layer].read().result()
        if lora:
            x = merged(row, x, *(part[layer] for part in lora))
        for target in x if x.ndim > len(row.inner_axes()) else (x,):
            yield row.rearrange(target)


def lay_out(rows, sizes, dtype):
    """({PyTorch name: (dtype, shape)}, rows, the wider dtype), in the order of the file: float32 first, so that all is
    aligned."""
    def stored(row):
        return dtype or ("float32" if row.lora else row.dtype)

    precision = "float32" if any(stored(row) == "float32" for row in rows) else "bfloat16"
    rows = sorted(rows, key=lambda row: stored(row) != "float32")
    # What nothing reads is zeros, and goes first, whatever the precision.
    entries = {EXPERT_HEAD: (precision, [sizes["X"], sizes["E"]])}
    for row in rows:
        for layer in range(row.layers() or 1):
            for target in row.targets:
                entries[target.format(layer)] = (stored(row), row.out_shape())
    return entries, rows, precision


def size_of(dtype, shape):
    return math.prod(shape) * DTYPES[dtype][1]


def write_weights(path, entries, rows):
    """A safetensors file: the header's length, the header in JSON, and the tensors without gaps."""
    header, offset = {"__metadata__": {"format": "pt", EMBED_TOKENS: TIED_HEAD}}, 0
    for name, (dtype, shape) in entries.items():
        end = offset + size_of(dtype, shape)
        header[name] = {"dtype": DTYPES[dtype][0], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    progress, names = Progress(offset), iter(entries.items())
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)

        def put(tensor):
            name, (dtype, shape) = next(names)
            tensor = np.ascontiguousarray(tensor, np.float32 if dtype == "float32" else ts.bfloat16.numpy_dtype)
            if not np.isfinite(tensor).all():
                fail(f"{name} is not finite; download the checkpoint again, or take an earlier step")
            file.write(tensor.reshape(-1).view(np.uint8))
            progress.advance(tensor.nbytes)

        put(np.zeros(entries[EXPERT_HEAD][1], np.float32))
        for row in rows:
            try:
                for tensor in read_targets(row):
                    put(tensor)
            except ValueError as error:  # tensorstore's
                fail(f"{row.jax} cannot be read: {error}. Download or copy the checkpoint again")
        os.fsync(file.fileno())


def convert(checkpoint, out, horizon, dtype, alpha):
    params = find_params(checkpoint)
    try:
        rows, sizes = find_rows(params, alpha)
    except ValueError as error:  # tensorstore's
        fail(f"{params} cannot be read: {error}. Download or copy the checkpoint again")
    kind = "pi0.5" if any(row.jax.startswith("time_mlp_in") for row in rows) else "pi0"
    entries, rows, precision = lay_out(rows, sizes, dtype)
    config = {"action_dim": sizes["A"], "action_horizon": horizon, "precision": precision,
              "paligemma_variant": VARIANTS.get((sizes["W"], sizes["M"])),
              "action_expert_variant": VARIANTS.get((sizes["E"], sizes["F"]))}
    print(f"{params}: {kind}, {sizes['L']} layers, widths {sizes['W']} and {sizes['E']}")
    if merges := [row for row in rows if row.lora]:
        print(f"LoRA is merged into {len(merges)} of {len(rows)} arrays")
    elif alpha is not None:
        fail(f"--lora-alpha: {params} has no LoRA arrays")

    assets = params.parent / "assets"
    stats = sorted(assets.rglob("norm_stats.json"))
    with new_folder(out, sum(size_of(*entry) for entry in entries.values())) as folder:
        write_weights(folder / "model.safetensors", entries, rows)
        # What is not known is left out.
        text = json.dumps({key: value for key, value in config.items() if value is not None}, indent=2)
        (folder / "config.json").write_text(text + "\n")
        for path in stats:
            target = folder / "assets" / path.relative_to(assets)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    count = sum(math.prod(shape) for name, (_, shape) in entries.items() if name != EXPERT_HEAD)
    dtypes = " and ".join(sorted({stored for stored, _ in entries.values()}))
    print(f"{out}: {count / 1e6:.2f} M parameters in {dtypes}")
    if not stats:
        print(f"{params.parent} has no statistics: put your robot's at {out}/assets/<asset_id>/norm_stats.json")
    if horizon is None:
        print("A JAX checkpoint does not say how many action steps a chunk has (LIBERO policies of pi0.5 have 10, most "
              "others 50). Convert with --horizon H, or give --horizon H to every command that runs the policy (serve, "
              "gate, simulate-loop, rollout, offline, similarity, skip) and to export; training takes policy.horizon=H")
    print(f"Next: build/bin/shallowpi-infer inspect {out}")


def horizon(text):
    if not text.isdigit() or not 1 <= int(text) <= MAX_HORIZON:
        raise argparse.ArgumentTypeError(f"{text} is not within 1 to {MAX_HORIZON}")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage=argparse.SUPPRESS)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder with params/")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FOLDER",
                        help="gets model.safetensors, config.json and assets/")
    parser.add_argument("--horizon", type=horizon, metavar="H",
                        help="action steps per chunk (action_horizon in openpi's config of the policy): 10 in "
                             "pi05_libero, 15 in pi05_droid, 50 in most. The checkpoint does not say it; without this "
                             "option the commands that run the policy need it")
    parser.add_argument("--dtype", choices=tuple(DTYPES),
                        help="default: as each tensor is stored, which loses nothing (float32 with LoRA merged in)")
    parser.add_argument("--lora-alpha", type=float, metavar="A",
                        help="of the LoRAConfig, where it is not openpi's (with rslora, times the root of the rank)")
    args = parser.parse_args()
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        fail(f"{args.out} is there already; give --out a new name, or delete it")
    import_packages()
    convert(args.checkpoint, args.out, args.horizon, args.dtype, args.lora_alpha)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was written")
