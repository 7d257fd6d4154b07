#!/usr/bin/env python3
"""Turns the parity policies into JAX checkpoints, as orbax writes them, and converts them back: every byte must return.

    tests/integration/convert_jax_test.py path/to/shallowpi-infer     needs numpy, safetensors and tensorstore
"""
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import tensorstore as ts
from safetensors import safe_open
from safetensors.numpy import load_file

PROJECT = pathlib.Path(__file__).resolve().parents[2]
PARITY = PROJECT / "tests" / "data" / "parity"
SCRIPT = PROJECT / "scripts" / "convert_jax.py"
INFER = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PROJECT / "build" / "bin" / "shallowpi-infer"
PALIGEMMA = "paligemma_with_expert.paligemma."
TOWER = PALIGEMMA + "model.vision_tower.vision_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
TIED_HEAD, EXPERT_HEAD = PALIGEMMA + "lm_head.weight", "paligemma_with_expert.gemma_expert.lm_head.weight"
EMBED_TOKENS = PALIGEMMA + "model.language_model.embed_tokens.weight"
HEADS, VISION_HEADS = 8, 16
BFLOAT16 = ts.bfloat16.numpy_dtype
ASSET = "assets/physical-intelligence/libero/norm_stats.json"


def parity_weights(kind):
    return load_file(PARITY / "shared.safetensors") | load_file(PARITY / kind / "weights.safetensors")


def jax_tree(weights):
    """{a JAX array's name in openpi: the array}, from openpi's PyTorch tensors: the way back, written without the
    converter's table."""
    tree = {}

    def stacked(pattern):
        return np.stack([weights[pattern.format(i)] for i in range(100) if pattern.format(i) in weights])

    def swapped(pattern):
        return np.swapaxes(stacked(pattern), -1, -2)

    def add_linear(jax, torch):
        tree[f"{jax}/kernel"], tree[f"{jax}/bias"] = weights[f"{torch}.weight"].T, weights[f"{torch}.bias"]

    def add_tower():
        block, layer = "PaliGemma/img/Transformer/encoderblock/", TOWER + "encoder.layers.{}."
        patch = TOWER + "embeddings.patch_embedding."
        tree["PaliGemma/img/embedding/kernel"] = weights[patch + "weight"].transpose(2, 3, 1, 0)
        tree["PaliGemma/img/embedding/bias"] = weights[patch + "bias"]
        tree["PaliGemma/img/pos_embedding"] = weights[TOWER + "embeddings.position_embedding.weight"][None]
        for i in (0, 1):
            tree[f"{block}LayerNorm_{i}/scale"] = stacked(f"{layer}layer_norm{i + 1}.weight")
            tree[f"{block}LayerNorm_{i}/bias"] = stacked(f"{layer}layer_norm{i + 1}.bias")
            tree[f"{block}MlpBlock_0/Dense_{i}/kernel"] = swapped(f"{layer}mlp.fc{i + 1}.weight")
            tree[f"{block}MlpBlock_0/Dense_{i}/bias"] = stacked(f"{layer}mlp.fc{i + 1}.bias")
        attention = block + "MultiHeadDotProductAttention_0/"
        for jax, torch in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            kernel, bias = swapped(f"{layer}self_attn.{torch}.weight"), stacked(f"{layer}self_attn.{torch}.bias")
            tree[f"{attention}{jax}/kernel"] = kernel.reshape(*kernel.shape[:2], VISION_HEADS, -1)
            tree[f"{attention}{jax}/bias"] = bias.reshape(len(bias), VISION_HEADS, -1)
        out = swapped(layer + "self_attn.out_proj.weight")
        tree[attention + "out/kernel"] = out.reshape(len(out), VISION_HEADS, -1, out.shape[-1])
        tree[attention + "out/bias"] = stacked(layer + "self_attn.out_proj.bias")
        for jax, torch in (("scale", "weight"), ("bias", "bias")):
            tree["PaliGemma/img/Transformer/encoder_norm/" + jax] = weights[TOWER + "post_layernorm." + torch]
        add_linear("PaliGemma/img/head", PALIGEMMA + "model.multi_modal_projector.linear")

    def add_gemma(expert, torch):
        layers, layer = "PaliGemma/llm/layers/", torch + "layers.{}."
        q = stacked(layer + "self_attn.q_proj.weight")  # [L, N H, W]
        tree[f"{layers}attn/q_einsum{expert}/w"] = q.reshape(len(q), HEADS, -1, q.shape[-1]).swapaxes(-1, -2)
        kv = [swapped(f"{layer}self_attn.{name}_proj.weight") for name in "kv"]
        tree[f"{layers}attn/kv_einsum{expert}/w"] = np.stack(kv, axis=1)[:, :, None]
        o = swapped(layer + "self_attn.o_proj.weight")  # [L, N H, W]
        tree[f"{layers}attn/attn_vec_einsum{expert}/w"] = o.reshape(len(o), HEADS, -1, o.shape[-1])
        gating = [swapped(f"{layer}mlp.{name}_proj.weight") for name in ("gate", "up")]
        tree[f"{layers}mlp{expert}/gating_einsum"] = np.stack(gating, axis=1)
        tree[f"{layers}mlp{expert}/linear"] = swapped(layer + "mlp.down_proj.weight")
        for jax, name in ((f"{layers}pre_attention_norm{expert}", layer + "input_layernorm."),
                          (f"{layers}pre_ffw_norm{expert}", layer + "post_attention_layernorm.")):
            if name.format(0) + "weight" in weights:
                tree[jax + "/scale"] = stacked(name + "weight")
            else:
                tree[jax + "/Dense_0/kernel"] = swapped(name + "dense.weight")
                tree[jax + "/Dense_0/bias"] = stacked(name + "dense.bias")
        final = f"PaliGemma/llm/final_norm{expert}"
        if torch + "norm.weight" in weights:
            tree[final + "/scale"] = weights[torch + "norm.weight"]
        else:
            add_linear(final + "/Dense_0", torch + "norm.dense")

    add_tower()
    tree["PaliGemma/llm/embedder/input_embedding"] = weights[TIED_HEAD]
    add_gemma("", PALIGEMMA + "model.language_model.")
    add_gemma("_1", EXPERT)
    for name in weights:
        if "." not in name.removesuffix(".weight") and name.endswith(".weight"):
            add_linear(name.removesuffix(".weight"), name.removesuffix(".weight"))
    return tree


def write_params(params, tree, layout="ocdbt", suffix="/value", chunks=None):
    """What orbax 0.11 writes of {"params": tree}: zarr arrays in one OCDBT database, for which each process first fills
    one of its own, or (files: use_ocdbt=False) in a folder each. openpi's own training adds the suffix. chunks(shape)
    splits the arrays, as sharding does."""
    context = ts.Context({"file_io_sync": False})  # of all stores, or one cannot copy from another
    (params / "ocdbt.process_0").mkdir(parents=True)
    (params / "_METADATA").write_text('{"use_zarr3": false, "store_array_data_equal_to_fill_value": true}')
    if layout == "ocdbt":
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{params}/ocdbt.process_0/"}, "path": "",
                 "config": {"max_inline_value_bytes": 1024, "max_decoded_node_bytes": 100000000,
                            "manifest_kind": "single"}, "assume_config": True}  # as orbax sets it
    else:
        (params / "ocdbt.process_0").rmdir()
        store = {"driver": "file", "path": f"{params}/"}
    for name, array in tree.items():
        dtype = "bfloat16" if array.dtype == BFLOAT16 else array.dtype.str
        metadata = {"shape": array.shape, "chunks": chunks(array.shape) if chunks else array.shape,
                    "compressor": {"id": "zstd"}, "dtype": dtype}
        path = store["path"] + f"params/{name}{suffix}".replace("/", ".") + "/"
        ts.open({"driver": "zarr", "kvstore": {**store, "path": path}, "metadata": metadata,
                 "store_data_equal_to_fill_value": True}, create=True, context=context).result().write(array).result()
    if layout == "ocdbt":
        whole = ts.KvStore.open({**store, "base": {"driver": "file", "path": f"{params}/"}}, context=context).result()
        part = ts.KvStore.open(store, context=context).result()
        with ts.Transaction(atomic=True) as transaction:
            part.experimental_copy_range_to(whole.with_transaction(transaction)).result()


def halved(shape):
    """Chunks that cut every axis but the first, as sharding over devices does."""
    return [shape[0], *((size + 1) // 2 for size in shape[1:])]


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def bfloat16_tree(kind):
    return {name: array.astype(BFLOAT16) for name, array in jax_tree(parity_weights(kind)).items()}


class ConvertJax(unittest.TestCase):
    def setUp(self):
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="shallowpi-convert-jax-"))
        self.addCleanup(shutil.rmtree, self.scratch)
        self.checkpoint = self.scratch / "checkpoints" / "my policy" / "4000"
        self.out = self.scratch / "out" / "converted"

    def convert(self, *options, checkpoint=None, out=None, fails=False, **how):
        """What it prints; where it has to fail, its message. Nothing but the output may have been written."""
        out = out or self.out
        command = [sys.executable, SCRIPT, checkpoint or self.checkpoint, "--out", out, *options]
        was_there = out.exists()
        result = subprocess.run(command, capture_output=True, text=True, **how)
        self.assertEqual(result.returncode, 1 if fails else 0, result.stderr)
        self.assertEqual(list(self.scratch.rglob("*.tmp")), [])
        self.warnings = result.stderr
        if fails:
            self.assertEqual(out.exists(), was_there)
            self.assertTrue(result.stderr.splitlines()[-1].startswith("error: "), result.stderr)
            return result.stderr
        return result.stdout

    def start_again(self):
        shutil.rmtree(self.scratch / "checkpoints", ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)

    def check_weights(self, expected):
        """Every tensor but the expert's dead head is, byte for byte, what it was."""
        found = load_file(self.out / "model.safetensors")
        with safe_open(self.out / "model.safetensors", "np") as file:
            self.assertEqual(file.metadata(), {"format": "pt", EMBED_TOKENS: TIED_HEAD})
        self.assertEqual(set(found), set(expected))
        for name, tensor in expected.items():
            self.assertEqual((found[name].dtype, found[name].shape), (tensor.dtype, tensor.shape), name)
            if name == EXPERT_HEAD:
                self.assertFalse(found[name].any())
            else:
                self.assertEqual(found[name].tobytes(), tensor.tobytes(), name)

    def inspect(self):
        result = subprocess.run([INFER, "inspect", "--json", self.out], capture_output=True, text=True)
        report = json.loads(result.stdout)
        self.assertFalse(report["corrupt"])
        weights = [finding for finding in report["findings"] if finding["topic"] == "weights"]
        self.assertEqual({finding["level"] for finding in weights}, {"ok"}, weights)
        return report["facts"]

    def test_every_tensor(self):
        for kind, policy in (("pi0", "pi0"), ("pi05", "pi0.5")):
            weights = parity_weights(kind)
            for layout, suffix, chunks in (("ocdbt", "/value", None), ("ocdbt", "", halved), ("files", "", None),
                                           ("files", "/value", halved)):
                with self.subTest(kind, layout=layout, suffix=suffix):
                    self.start_again()
                    write_params(self.checkpoint / "params", jax_tree(weights), layout, suffix, chunks)
                    self.assertIn(f": {policy}, 18 layers, widths 64 and 32\n", self.convert())
                    self.check_weights(weights)
            facts = self.inspect()
            self.assertEqual((facts["policy"], facts["chunk"]), (kind, "not known"))
            self.assertTrue(facts["backbone"].startswith("18 layers, width 64, MLP 96, 8 heads x 8"), facts)
            config = json.loads((self.out / "config.json").read_text())
            self.assertEqual(config, {"action_dim": 32, "precision": "float32"})

    def test_dtypes(self):
        weights = parity_weights("pi05")
        rounded = {name: tensor.astype(BFLOAT16) for name, tensor in weights.items()}
        write_params(self.checkpoint / "params", jax_tree(weights))
        self.assertIn("has no LoRA arrays", self.convert("--lora-alpha", "8", fails=True))
        self.convert("--dtype", "bfloat16")
        self.check_weights(rounded)
        self.assertEqual(json.loads((self.out / "config.json").read_text())["precision"], "bfloat16")
        self.start_again()
        write_params(self.checkpoint / "params", bfloat16_tree("pi05"))
        self.convert()
        self.check_weights(rounded)
        self.inspect()
        shutil.rmtree(self.out)
        self.convert("--dtype", "float32")
        self.check_weights({name: tensor.astype(np.float32) for name, tensor in rounded.items()})

    def test_each_tensor_keeps_its_own_dtype(self):
        weights, half = parity_weights("pi0"), bfloat16_tree("pi0")
        tree = jax_tree(weights)
        kept = {name: array if "norm" in name or "proj" in name else half[name] for name, array in tree.items()}
        write_params(self.checkpoint / "params", kept)
        self.convert()
        found = load_file(self.out / "model.safetensors")
        self.assertEqual(found["state_proj.weight"].tobytes(), weights["state_proj.weight"].tobytes())
        self.assertEqual(found[TIED_HEAD].tobytes(), weights[TIED_HEAD].astype(BFLOAT16).tobytes())
        self.inspect()

    def add_lora(self, tree, ranks):
        """Random LoRA arrays of openpi's shapes and names, small beside the weights."""
        rng = np.random.default_rng(0)
        for name, array in list(tree.items()):
            if "/attn/" in name:
                stem = name.removesuffix("w")
            elif "/mlp" in name:
                stem = name + "_"
            else:
                continue
            rank = ranks["_1/" in name]
            tree[stem + "lora_a"] = rng.normal(0, 0.1, (*array.shape[:-1], rank)).astype(np.float32)
            tree[stem + "lora_b"] = rng.normal(0, 0.1, (*array.shape[:-2], rank, array.shape[-1])).astype(np.float32)
        return tree

    def check_lora(self, tree, scale):
        """What the merged weights compute is what openpi's two einsums compute (src/openpi/models/lora.py)."""
        found = load_file(self.out / "model.safetensors")
        rng, layer = np.random.default_rng(1), 5

        def part(name):
            return tree[f"PaliGemma/llm/layers/{name}"][layer].astype(np.float64)

        def agree(got, equation, a_equation, b_equation, x, stem, scale, pick=()):
            w, a, b = (part(stem.format(name))[pick] for name in ("w", "lora_a", "lora_b"))
            expected = np.einsum(equation, x, w) + scale * np.einsum(b_equation, np.einsum(a_equation, x, a), b)
            np.testing.assert_allclose(got, expected.reshape(got.shape), rtol=0, atol=1e-5)
            self.assertGreater(np.abs(expected - np.einsum(equation, x, w)).max(), 1e-2)

        for expert, torch in (("", PALIGEMMA + "model.language_model."), ("_1", EXPERT)):
            attention, mlp = f"{torch}layers.{layer}.self_attn.", f"{torch}layers.{layer}.mlp."
            x = rng.normal(size=(3, found[attention + "q_proj.weight"].shape[1]))
            heads = rng.normal(size=(3, HEADS, found[attention + "q_proj.weight"].shape[0] // HEADS))
            agree(x @ found[attention + "q_proj.weight"].T, "td,ndh->tnh", "td,ndl->tnl", "tnl,nlh->tnh", x,
                  f"attn/q_einsum{expert}/{{}}", scale)
            for index, name in enumerate("kv"):
                agree(x @ found[f"{attention}{name}_proj.weight"].T, "td,kdh->tkh", "td,kdl->tkl", "tkl,klh->tkh", x,
                      f"attn/kv_einsum{expert}/{{}}", scale, pick=index)
            # The equations that openpi derives here sum over the heads before lora_b.
            agree(heads.reshape(3, -1) @ found[attention + "o_proj.weight"].T, "tnh,nhd->td", "tnh,nhl->tl",
                  "tl,nld->td", heads, f"attn/attn_vec_einsum{expert}/{{}}", scale)

            def dot(got, x, stem, pick=()):
                w, a, b = (part(f"mlp{expert}/{stem}{name}")[pick] for name in ("", "_lora_a", "_lora_b"))
                np.testing.assert_allclose(got, x @ w + x @ a @ b, rtol=0, atol=1e-5)

            for index, name in enumerate(("gate", "up")):
                dot(x @ found[f"{mlp}{name}_proj.weight"].T, x, "gating_einsum", pick=index)
            hidden = rng.normal(size=(3, found[mlp + "down_proj.weight"].shape[1]))
            dot(hidden @ found[mlp + "down_proj.weight"].T, hidden, "linear")

    def test_lora(self):
        tree = self.add_lora(jax_tree(parity_weights("pi0")), (16, 32))
        write_params(self.checkpoint / "params", tree)
        self.assertIn("LoRA is merged into 10 of 50 arrays", self.convert())
        self.check_lora(tree, 1)
        self.inspect()
        self.start_again()
        tree = self.add_lora(bfloat16_tree("pi05"), (4, 4))
        write_params(self.checkpoint / "params", tree)
        self.assertIn("has rank 4, openpi's 16", self.convert(fails=True))
        self.convert("--lora-alpha", "8")
        self.check_lora(tree, 2)
        found = load_file(self.out / "model.safetensors")
        self.assertEqual(found[PALIGEMMA + "model.language_model.layers.0.mlp.up_proj.weight"].dtype, np.float32)
        self.assertEqual(found["time_mlp_in.weight"].dtype, BFLOAT16)

    def test_lora_that_does_not_fit(self):
        whole = self.add_lora(jax_tree(parity_weights("pi0")), (16, 32))
        lora_b = "PaliGemma/llm/layers/attn/q_einsum/lora_b"
        for words, changed in (("only one is there", {lora_b: None}), ("do not fit", {lora_b: whole[lora_b][..., :4]}),
                               ("cannot be merged", {"PaliGemma/img/head/lora_a": np.ones((2, 2))})):
            self.expect_refusal(words, whole, changed)

    def expect_refusal(self, words, whole, changed):
        with self.subTest(words):
            self.start_again()
            tree = {name: array for name, array in (whole | changed).items() if array is not None}
            write_params(self.checkpoint / "params", tree)
            self.assertIn(words, self.convert(fails=True))

    def test_statistics_and_horizon(self):
        write_params(self.checkpoint / "params", jax_tree(parity_weights("pi05")))
        feature = {name: [0.5] * 7 for name in ("mean", "std")} | {"q01": [-1.0] * 7, "q99": [1.0] * 7}
        for asset in (ASSET, "assets/notes/README.md"):
            (self.checkpoint / asset).parent.mkdir(parents=True)
            (self.checkpoint / asset).write_text(json.dumps({"norm_stats": {"state": feature, "actions": feature}}))
        result = subprocess.run([sys.executable, SCRIPT, self.checkpoint, "--out", self.out, "--horizon", "0"],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 2)
        self.assertIn("0 is not within 1 to 10000", result.stderr)
        words = self.convert("--horizon", "10")
        self.assertNotIn("--horizon", words)
        self.assertNotIn("statistics", words)
        self.assertEqual({str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file()},
                         {"model.safetensors", "config.json", ASSET})
        self.assertEqual((self.out / ASSET).read_bytes(), (self.checkpoint / ASSET).read_bytes())
        facts = self.inspect()
        self.assertEqual((facts["chunk"], facts["normalisation"]), ("10 steps", "quantile"))
        self.assertIn("libero", facts["robot"])
        shutil.rmtree(self.checkpoint / "assets")
        words = self.convert(out=self.scratch / "again")
        self.assertIn("--horizon H to every command that runs the policy (serve, ", words)
        self.assertIn("has no statistics: put your robot's at", words)

    def test_folders_that_are_something_else(self):
        fast = {"PaliGemma/llm/embedder/input_embedding": np.ones((4, 2), np.float32)}
        write_params(self.checkpoint / "params", fast)
        for name in ("train_state/d", "assets/libero"):
            (self.checkpoint / name).mkdir(parents=True)
        earlier = self.checkpoint.with_name("900")
        shutil.copytree(self.checkpoint, earlier)
        shutil.copytree(self.checkpoint, self.checkpoint.with_name("5000.orbax-checkpoint-tmp-0"))
        inside = ("params", "params/ocdbt.process_0", "train_state", "train_state/d", "assets/libero")
        for folder in (*inside, "..", "../.."):
            words = self.convert(checkpoint=self.checkpoint / folder, fails=True)
            self.assertIn(f"did you mean {self.checkpoint}?", words, folder)
        self.assertIn("it is pi0-FAST or PaliGemma", self.convert(fails=True))
        self.assertIn("there is no such folder", self.convert(checkpoint=self.scratch / "absent", fails=True))
        self.assertIn("is a file", self.convert(checkpoint=self.checkpoint / "params" / "_METADATA", fails=True))
        self.assertIn("gsutil -m cp -r gs://openpi-assets/checkpoints/pi0_base .",
                      self.convert(checkpoint="gs://openpi-assets/checkpoints/pi0_base", fails=True))
        self.assertIn("is none of openpi's", self.convert(checkpoint=PROJECT / "configs", fails=True))
        self.assertIn("has model.safetensors, so it needs no conversion",
                      self.convert(checkpoint=PROJECT / "configs" / "quickstart" / "teacher", fails=True))
        shutil.rmtree(self.checkpoint.parent)
        (self.checkpoint / "train_state").mkdir(parents=True)
        self.assertIn("copy the params/ beside it, too", self.convert(fails=True))
        (self.checkpoint / "params" / "d").mkdir(parents=True)
        self.assertIn("download or copy the checkpoint again", self.convert(fails=True))
        unfinished = self.checkpoint.with_name("5000.orbax-checkpoint-tmp-1")
        (unfinished / "params").mkdir(parents=True)
        self.assertIn("was not written to its end", self.convert(checkpoint=unfinished, fails=True))
        write_params(self.checkpoint.with_name("other") / "params", {"a/kernel": np.ones(2, np.float32)})
        self.assertIn("neither pi0 nor pi0.5, which have state_proj or time_mlp_in; it has a/kernel",
                      self.convert(checkpoint=self.checkpoint.with_name("other"), fails=True))

    def test_arrays_that_do_not_fit(self):
        whole, q = jax_tree(parity_weights("pi0")), "PaliGemma/llm/layers/attn/q_einsum/w"
        linear = "PaliGemma/llm/layers/mlp_1/linear"
        with_nan = whole[linear].copy()
        with_nan[3, 1, 1] = np.nan
        cases = {"lacks 1 of the policy's arrays: llm/layers/mlp_1/linear": {linear: None},
                 "mlp_1/linear (17, 48, 32) instead of (18, 48, 32)": {linear: whole[linear][:17]},
                 "q_einsum/w (18, 4, 64, 16) instead of (18, 8, 64, H)": {q: whole[q].reshape(18, 4, 64, 16)},
                 "mlp_1/linear of type float64": {linear: whole[linear].astype(np.float64)},
                 "gemma_expert.model.layers.3.mlp.down_proj.weight is not finite": {linear: with_nan}}
        for words, changed in cases.items():
            self.expect_refusal(words, whole, changed)

    def test_arrays_that_openpi_does_not_have_are_named(self):
        more = {"value_head/bias": np.ones(2, np.float32)}
        write_params(self.checkpoint / "params", jax_tree(parity_weights("pi05")) | more)
        self.convert()
        self.assertIn("warning: left out, since openpi's policy has no such arrays: value_head/bias", self.warnings)
        self.check_weights(parity_weights("pi05"))

    def test_damaged_and_missing_data(self):
        weights = jax_tree(parity_weights("pi0"))
        write_params(self.checkpoint / "params", weights, "files")
        chunk = self.checkpoint / "params" / "params.PaliGemma.llm.embedder.input_embedding.value" / "0.0"
        chunk.write_bytes(chunk.read_bytes()[:100])
        self.assertIn("llm/embedder/input_embedding cannot be read", self.convert(fails=True))
        chunk.unlink()  # else zeros
        self.assertIn("llm/embedder/input_embedding cannot be read", self.convert(fails=True))
        self.start_again()
        write_params(self.checkpoint / "params", weights)
        files = (self.checkpoint / "params" / "ocdbt.process_0" / "d").iterdir()
        largest = max(files, key=lambda path: path.stat().st_size)
        whole = largest.read_bytes()
        for damaged in (whole[:len(whole) // 2], None):
            largest.unlink()
            if damaged:
                largest.write_bytes(damaged)
            self.assertIn("Download or copy", self.convert(fails=True))
            largest.write_bytes(whole)
        manifest = self.checkpoint / "params" / "manifest.ocdbt"
        manifest.write_bytes(b"version https://git-lfs.github.com/spec/v1")
        self.assertIn("cannot be read", self.convert(fails=True))

    def test_the_output_folder(self):
        write_params(self.checkpoint / "params", jax_tree(parity_weights("pi0")))
        stale = self.out.with_name("converted.123456789.tmp")
        for folder in (self.out, stale):
            folder.mkdir(parents=True)
        (stale / "model.safetensors").write_text("of a conversion that was killed")
        self.assertIn("cannot be written: [Errno 27] File too large", self.convert(fails=True, preexec_fn=small_files))
        self.assertFalse(stale.exists())
        self.convert()
        self.assertIn("is there already", self.convert(fails=True))

    def test_help_needs_no_packages(self):
        for package in ("numpy", "tensorstore"):
            (self.scratch / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}')")
        environment = {**os.environ, "PYTHONPATH": str(self.scratch)}
        result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, env=environment)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("--horizon H", result.stdout)
        self.assertIn("pip install tensorstore", self.convert(fails=True, env=environment))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
