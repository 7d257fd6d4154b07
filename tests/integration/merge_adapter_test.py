#!/usr/bin/env python3
"""Merges made-up LoRA adapters into the parity policies and compares every tensor with the formula.

    tests/integration/merge_adapter_test.py path/to/shallowpi-infer     needs numpy and safetensors
"""
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import numpy as np
from safetensors.numpy import load_file, save_file

PROJECT = pathlib.Path(__file__).resolve().parents[2]
PARITY = PROJECT / "tests" / "data" / "parity"
SCRIPT = PROJECT / "scripts" / "merge_adapter.py"
INFER = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PROJECT / "build" / "bin" / "shallowpi-infer"
EXPERT = "model.paligemma_with_expert.gemma_expert.model."
BACKBONE = "model.paligemma_with_expert.paligemma.model.language_model."
PATCHES = "model.paligemma_with_expert.paligemma.model.vision_tower.vision_model.embeddings.patch_embedding"
Q, V, BACKBONE_Q = (f"{stack}layers.3.self_attn.{name}_proj" for stack, name in
                    ((EXPERT, "q"), (EXPERT, "v"), (BACKBONE, "q")))
STATE_FILE = "policy_preprocessor_step_6_normalizer_processor.safetensors"
# What PEFT 0.21 writes where LeRobot chose the rest.
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "base_model_name_or_path": "lerobot/pi0_base", "bias": "none",
          "use_rslora": False, "use_dora": False, "lora_bias": False, "fan_in_fan_out": False, "loftq_config": {},
          "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": [], "target_modules": ".*",
          "init_lora_weights": True, "lora_dropout": 0.0, "inference_mode": True, "task_type": None,
          "layer_replication": None, "megatron_core": "megatron.core", "qalora_group_size": 16,
          "trainable_token_indices": None}


def lerobot_weights(kind):
    weights = load_file(PARITY / "shared.safetensors") | load_file(PARITY / kind / "weights.safetensors")
    return {f"model.{name}": tensor for name, tensor in weights.items()}


def bfloat16(x):
    """Nearest bfloat16 of finite float32, ties to even, as float32: by division, where the script works on bits."""
    x = np.asarray(x, np.float64)
    step = 2.0 ** (np.maximum(np.floor(np.log2(np.abs(x), where=x != 0, out=np.zeros_like(x))), -126) - 7)
    return (np.rint(x / step) * step).astype(np.float32)


def write_bfloat16(path, tensors, others=()):
    """A safetensors file, by hand: numpy has no bfloat16. The tensors in `others` are float32."""
    header, data = {}, b""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0] not in others):
        bits = np.ascontiguousarray(tensor, np.float32).tobytes()
        if name not in others:
            bits = (np.frombuffer(bits, np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "F32" if name in others else "BF16", "shape": tensor.shape,
                        "data_offsets": [len(data), len(data) + len(bits)]}
        data += bits
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_bfloat16(path):
    """{name: (dtype, float32 values)}"""
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        part = data[start:][slice(*entry["data_offsets"])]
        values = np.frombuffer(part, np.float32 if entry["dtype"] == "F32" else np.uint16)
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = entry["dtype"], values.reshape(entry["shape"])
    return tensors


class MergeAdapter(unittest.TestCase):
    def setUp(self):
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="shallowpi-merge-"))
        self.addCleanup(shutil.rmtree, self.scratch)
        self.adapter, self.base = self.scratch / "step" / "pretrained_model", self.scratch / "base"
        self.out = self.scratch / "results" / "merged"
        self.rng = np.random.default_rng(0)
        self.start("pi0")

    def start(self, kind):
        """A base policy, and an adapter without tensors."""
        for folder in (self.adapter, self.base):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            shutil.copyfile(PARITY / kind / "lerobot_config.json", folder / "config.json")
        self.edit(self.adapter / "config.json", use_peft=True, chunk_size=7)
        self.weights = lerobot_weights(kind)
        save_file(self.weights, self.base / "model.safetensors", {"format": "pt"})
        self.tensors = {}
        self.set_config()

    def edit(self, path, **changes):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def set_config(self, **changes):
        (self.adapter / "adapter_config.json").write_text(json.dumps(CONFIG | changes))

    def add_lora(self, module, rank=4):
        """Returns B @ A in float64, in the shape of the weight."""
        shape = self.weights[f"{module}.weight"].shape
        a = self.rng.normal(scale=0.3, size=(rank, *shape[1:])).astype(np.float32)
        b = self.rng.normal(scale=0.3, size=(shape[0], rank, *[1] * (len(shape) - 2))).astype(np.float32)
        self.tensors |= {f"base_model.model.{module}.lora_{part}.weight": x for part, x in (("A", a), ("B", b))}
        return np.einsum("or,r...->o...", b.reshape(shape[0], rank).astype(np.float64), a.astype(np.float64))

    def save_adapter(self):
        save_file(self.tensors, self.adapter / "adapter_model.safetensors", {"format": "pt"})

    def merge(self, fails=False, adapter=None, base=None, save=True):
        if save:
            self.save_adapter()
        shutil.rmtree(self.out, ignore_errors=True)
        command = [sys.executable, SCRIPT, adapter or self.adapter, "--base", base or self.base, "--out", self.out]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 1 if fails else 0, result.stderr)
        self.assertEqual(list(self.scratch.rglob("*.tmp")), [])
        self.assertEqual(self.out.exists(), not fails)
        if fails:
            self.assertTrue(result.stderr.splitlines()[-1].startswith("error: "), result.stderr)
        return result.stderr if fails else result.stdout

    def check_weights(self, changed):
        """changed: {name: float64 values}. All else has to be the base's."""
        found = load_file(self.out / "model.safetensors")
        self.assertEqual(list(found), list(load_file(self.base / "model.safetensors")))
        for name, tensor in found.items():
            if name in changed:
                self.assertEqual(tensor.dtype, np.float32)
                np.testing.assert_allclose(tensor, changed[name], rtol=1e-6, atol=1e-6, err_msg=name)
                self.assertGreater(np.abs(tensor - self.weights[name]).max(), 1e-2, name)
            else:
                np.testing.assert_array_equal(tensor, self.weights[name], err_msg=name)

    def inspect(self):
        result = subprocess.run([INFER, "inspect", self.out, "--json"], capture_output=True, text=True)
        self.assertIn(result.returncode, (0, 1), result.stderr)
        report = json.loads(result.stdout)
        self.assertFalse(report["corrupt"])
        return report["facts"]

    def test_formula(self):
        deltas = {module: self.add_lora(module) for module in (Q, V, "model.action_in_proj", PATCHES)}
        words = self.merge()
        self.assertIn("4 tensors with LoRA (rank 4 with scale 1.5), 0 whole", words)
        self.assertIn("trained on lerobot/pi0_base", words)
        self.check_weights({f"{module}.weight": self.weights[f"{module}.weight"].astype(np.float64) + 1.5 * delta
                            for module, delta in deltas.items()})
        facts = self.inspect()
        self.assertIn("LeRobot", facts["format"])
        self.assertIn("7 steps", facts["chunk"])  # as the adapter's config.json says

    def test_pi05_and_the_folder_above(self):
        self.start("pi05")
        norm = f"{EXPERT}layers.2.input_layernorm.dense"
        delta = self.add_lora(norm)
        self.merge(adapter=self.adapter.parent)
        self.check_weights({f"{norm}.weight": self.weights[f"{norm}.weight"].astype(np.float64) + 1.5 * delta})
        self.assertEqual(self.inspect()["policy"], "pi05")

    def test_scales(self):
        for rslora in (False, True):
            with self.subTest(rslora=rslora):
                self.tensors = {}
                # Of patterns, the first that fits the end of a name from one of its dots counts.
                self.set_config(use_rslora=rslora,
                                rank_pattern={"proj": 3, r"layers\.\d+\.self_attn\.v_proj": 2, "v_proj": 5},
                                alpha_pattern={r"^model\.action_in_proj": 9, f"{BACKBONE}.*q_proj": 10})
                kinds = {Q: (4, 6), V: (2, 6), BACKBONE_Q: (4, 10), "model.action_in_proj": (4, 9)}
                changed = {}
                for module, (rank, alpha) in kinds.items():
                    scale = alpha / math.sqrt(rank) if rslora else alpha / rank
                    changed[f"{module}.weight"] = self.weights[f"{module}.weight"] + scale * self.add_lora(module, rank)
                self.assertIn("rank 2 with scale 4.243" if rslora else "rank 2 with scale 3", self.merge())
                self.check_weights(changed)

    def test_whole_tensors(self):
        self.set_config(modules_to_save=["action_out_proj"])
        changed = {}
        for name in ("model.action_out_proj.weight", "model.action_out_proj.bias"):
            self.tensors[f"base_model.model.{name}"] = self.rng.normal(size=self.weights[name].shape).astype(np.float32)
            changed[name] = self.tensors[f"base_model.model.{name}"].astype(np.float64)
        changed[f"{Q}.weight"] = self.weights[f"{Q}.weight"] + 1.5 * self.add_lora(Q)
        self.assertIn("1 tensors with LoRA (rank 4 with scale 1.5), 2 whole", self.merge())
        self.check_weights(changed)

    def test_openpi_names(self):
        """LeRobot trains on openpi's files too."""
        save_file({name.removeprefix("model."): tensor for name, tensor in self.weights.items()},
                  self.base / "model.safetensors")
        (self.base / "config.json").unlink()
        expected = self.weights[f"{Q}.weight"] + 1.5 * self.add_lora(Q)
        self.merge()
        found = load_file(self.out / "model.safetensors")
        np.testing.assert_allclose(found[f"{Q}.weight".removeprefix("model.")], expected, rtol=1e-6, atol=1e-6)
        self.assertIn("LeRobot", self.inspect()["format"])
        for name in (f"{Q}.lora_A.weight", f"{Q}.lora_A.weight".removeprefix("model.")):
            self.tensors[f"base_model.model.{name}"] = self.tensors[f"base_model.model.{Q}.lora_A.weight"]
        self.assertIn("1 of its 3 tensors cannot be merged", self.merge(fails=True))

    def test_bfloat16(self):
        """Base and adapter in bfloat16 but for some tensors; rounded once, from the float32 sum."""
        single = ("model.action_in_proj.weight", f"{EXPERT}norm.weight")
        weights = {name: tensor if name in single else bfloat16(tensor) for name, tensor in self.weights.items()}
        write_bfloat16(self.base / "model.safetensors", weights, single)
        deltas = {}
        for module in (Q, "model.action_in_proj"):
            self.add_lora(module)
            a, b = (bfloat16(self.tensors[f"base_model.model.{module}.lora_{part}.weight"]) for part in "AB")
            deltas[f"{module}.weight"] = np.float32(1.5) * (b @ a)
        bias = "model.action_out_proj.bias"
        trained = {name: bfloat16(tensor) for name, tensor in self.tensors.items()}
        trained[f"base_model.model.{bias}"] = new = self.rng.normal(size=weights[bias].shape).astype(np.float32)
        write_bfloat16(self.adapter / "adapter_model.safetensors", trained, [f"base_model.model.{bias}"])
        self.merge(save=False)
        found = read_bfloat16(self.out / "model.safetensors")
        self.assertEqual(found.keys(), weights.keys())
        for name, (dtype, values) in found.items():
            self.assertEqual(dtype, "F32" if name in single else "BF16")
            if name == bias:
                np.testing.assert_array_equal(values, bfloat16(new))
            elif name in deltas:
                # numpy's product may differ in float32's last bit, which moves a few values to the neighbour.
                expected = weights[name] + deltas[name]
                expected = expected if name in single else bfloat16(expected)
                self.assertLess(np.mean(values != expected), 0.01)
                np.testing.assert_allclose(values, expected, rtol=1e-6 if name in single else 2**-7, atol=1e-6)
            else:
                np.testing.assert_array_equal(values, weights[name])
        self.assertIn("BFloat16", self.inspect()["weights"])

    def test_rounding(self):
        """Every bfloat16 between its neighbours: what is below, at and above the middle. float16 as numpy does it."""
        sys.path.insert(0, str(SCRIPT.parent))
        import merge_adapter
        merge_adapter.import_packages()
        low = np.arange(0x7F7F, dtype=np.uint32)  # all finite ones but the largest
        for sign in (0, 0x8000):
            for extra, expected in ((0, low), (1, low), (0x7FFF, low), (0x8000, low + low % 2), (0x8001, low + 1),
                                    (0xFFFF, low + 1)):
                x = ((low | sign) << 16 | extra).astype(np.uint32).view(np.float32)
                stored = merge_adapter.encode(x, "BF16")
                self.assertEqual(stored.dtype, np.uint16)
                np.testing.assert_array_equal(stored, expected | sign, err_msg=hex(extra))
                np.testing.assert_array_equal(merge_adapter.decode(stored.view(np.uint8), "BF16"),
                                              (stored.astype(np.uint32) << 16).view(np.float32))
        x = self.rng.normal(size=100).astype(np.float32)
        np.testing.assert_array_equal(merge_adapter.encode(x, "F16"), x.astype(np.float16))

    def test_float16(self):
        save_file(self.weights | {f"{Q}.weight": self.weights[f"{Q}.weight"].astype(np.float16)},
                  self.base / "model.safetensors")
        expected = self.weights[f"{Q}.weight"].astype(np.float16) + 1.5 * self.add_lora(Q)
        self.merge()
        found = load_file(self.out / "model.safetensors")[f"{Q}.weight"]
        self.assertEqual(found.dtype, np.float16)
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=1e-6)
        self.tensors[f"base_model.model.{Q}.lora_A.weight"] *= 1e5
        self.assertIn(f"{Q}.weight would get values beyond 6.55e+04, the largest of F16", self.merge(fails=True))

    def write_processors(self, folder, mark):
        for name in ("preprocessor", "postprocessor"):
            state = STATE_FILE.replace("preprocessor", name)
            (folder / f"policy_{name}.json").write_text(json.dumps({"name": mark, "steps": [
                {"registry_name": "to_batch_processor", "config": {}},
                {"registry_name": "normalizer_processor", "config": {}, "state_file": state}]}))
            save_file({mark: np.ones(2, np.float32)}, folder / state)

    def test_side_files(self):
        self.add_lora(Q)
        self.assertIn("Neither folder has policy_preprocessor.json", self.merge())
        self.write_processors(self.base, "base")
        (self.base / "tokenizer.model").write_text("tokenizer")
        for name in ("manifest.json", "README.md", "train_config.json"):  # which say what OUT is not
            (self.base / name).write_text("{}")
            (self.adapter / name).write_text("{}")
        words = self.merge()
        self.assertIn(f"with the statistics, are those of {self.base}", words)
        self.assertEqual({path.name for path in self.out.iterdir()},
                         {"model.safetensors", "config.json", "tokenizer.model", "policy_preprocessor.json",
                          "policy_postprocessor.json", STATE_FILE, STATE_FILE.replace("pre", "post", 1)})
        self.assertIn("base", load_file(self.out / STATE_FILE))
        self.write_processors(self.adapter, "adapter")
        self.assertNotIn("statistics", self.merge())
        self.assertIn("adapter", load_file(self.out / STATE_FILE))
        self.assertEqual(json.loads((self.out / "policy_postprocessor.json").read_text())["name"], "adapter")
        config = json.loads((self.out / "config.json").read_text())
        self.assertEqual(config, json.loads((self.adapter / "config.json").read_text()) | {"use_peft": False})
        (self.adapter / "config.json").unlink()
        self.merge()
        config = json.loads((self.out / "config.json").read_text())
        self.assertEqual(config, json.loads((self.base / "config.json").read_text()) | {"use_peft": False})
        # The adapter's are not completed with the base's: these may be another robot's.
        (self.adapter / STATE_FILE).unlink()
        self.assertIn(f"names {STATE_FILE}, which is not beside it", self.merge(fails=True))
        self.edit(self.adapter / "policy_preprocessor.json", steps=[{"state_file": f"../../base/{STATE_FILE}"}])
        self.assertIn("which is not beside it", self.merge(fails=True))
        (self.base / "config.json").unlink()
        self.assertIn("has a config.json of LeRobot", self.merge(fails=True))

    def test_another_policy(self):
        self.add_lora(Q)
        self.edit(self.adapter / "config.json", type="pi05")
        self.assertIn("is an adapter for pi05", self.merge(fails=True))

    def test_options_that_are_refused(self):
        self.add_lora(Q)
        for option, value in (("use_dora", True), ("lora_bias", True), ("bias", "all"), ("bias", "lora_only"),
                              ("ensure_weight_tying", True), ("trainable_token_indices", [1]), ("of_a_later_peft", 1),
                              ("layer_replication", [[0, 4]]), ("target_parameters", ["weight"])):
            with self.subTest(option, value=value):
                self.set_config(**{option: value})
                words = self.merge(fails=True)
                self.assertIn(f"{option} is {json.dumps(value)}, which cannot be merged here", words)
                self.assertIn("merge_and_unload", words)
        for begun in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"):
            self.set_config(init_lora_weights=begun)
            self.assertIn(f"init_lora_weights is {begun}, which changed the base's weights", self.merge(fails=True))
        for kind in ("LOHA", "MISS", None):
            self.set_config(peft_type=kind)
            self.assertIn(f"peft_type is {kind}, and only LORA", self.merge(fails=True))
        for wrong in ({"r": None}, {"r": 0}, {"lora_alpha": "6"}, {"rank_pattern": {"(": 4}}, {"alpha_pattern": [1]}):
            self.set_config(**wrong)
            self.assertIn(f"does not give rank and alpha of {Q}", self.merge(fails=True))

    def test_options_without_effect(self):
        """PEFT sets fan_in_fan_out to false itself where a layer is linear."""
        expected = self.weights[f"{BACKBONE_Q}.weight"] + 1.5 * self.add_lora(BACKBONE_Q)
        for begun in ("gaussian", False, "eva", "orthogonal", "mica"):
            self.set_config(init_lora_weights=begun, eva_config={"rho": 2.0}, revision="main", fan_in_fan_out=True,
                            lora_dropout=0.1, layers_to_transform=[3])
            self.merge()
            self.check_weights({f"{BACKBONE_Q}.weight": expected})

    def test_every_tensor_is_used_once(self):
        self.add_lora(Q)
        whole = dict(self.tensors)
        a, b = (f"base_model.model.{Q}.lora_{part}.weight" for part in "AB")
        ones = np.ones((2, 2), np.float32)
        for name in (f"base_model.model.{EXPERT}layers.99.self_attn.q_proj.lora_A.weight", f"{V}.lora_A.weight",
                     "base_model.model.model.value_head.weight", f"base_model.model.{Q}.weight",
                     f"base_model.model.{Q}.lora_magnitude_vector", f"base_model.model.{Q}.lora_B.bias",
                     f"base_model.model.{V}.lora_A.default.weight", f"base_model.model.{V}.lora_A.weight",
                     f"base_model.model.{V}.lora_B.weight", "model.action_in_proj.bias"):
            with self.subTest(name):
                self.tensors = whole | {name: ones}
                words = self.merge(fails=True)
                self.assertRegex(words, r"[13] of its 3 tensors cannot be merged")
                self.assertIn(name, words)
                self.assertIn("By adapter_config.json that is lerobot/pi0_base", words)
        self.tensors = {}
        self.assertIn("0 of its 0 tensors", self.merge(fails=True))
        for name, tensor in ((a, ones), (b, ones), (a, whole[a][:, :-1]), (b, whole[b].T), (a, whole[a][None])):
            self.tensors = whole | {name: np.ascontiguousarray(tensor)}
            self.assertIn(f"{Q}.weight (64, 32) needs (4, 32) and (64, 4), not", self.merge(fails=True))
        self.tensors = whole
        self.set_config(r=8)
        self.assertIn("needs (8, 32) and (64, 8), not (4, 32) and (64, 4)", self.merge(fails=True))
        self.set_config()
        self.tensors = {"base_model.model.model.action_in_proj.bias": np.ones(31, np.float32)}
        self.assertIn("model.action_in_proj.bias (32,) needs (32,), not (31,)", self.merge(fails=True))
        self.tensors = {f"base_model.model.{BACKBONE}embed_tokens.lora_embedding_A": ones}
        self.assertIn("belongs to LoRA of an embedding", self.merge(fails=True))

    def test_values(self):
        self.add_lora(Q)
        a = self.tensors[f"base_model.model.{Q}.lora_A.weight"]
        a[1, 2] = np.nan
        self.assertIn(f"base_model.model.{Q}.lora_A.weight is not finite", self.merge(fails=True))
        a[1, 2] = 1
        self.weights[f"{Q}.weight"][0, 0] = np.inf
        save_file(self.weights, self.base / "model.safetensors")
        self.assertIn(f"{Q}.weight is not finite", self.merge(fails=True))
        save_file(self.weights | {f"{Q}.weight": np.ones((64, 32), np.int8)}, self.base / "model.safetensors")
        self.assertIn(f"{Q}.weight is I8 and gets F32 and F32, not F32, BF16, F16", self.merge(fails=True))

    def test_damaged_and_missing_files(self):
        self.add_lora(Q)
        self.save_adapter()
        for path in (self.adapter / "adapter_model.safetensors", self.base / "model.safetensors"):
            whole = path.read_bytes()
            for damaged in (b"", whole[:5], whole[:100], whole[:-4], whole + b"1234",
                            whole.replace(b'"F32"', b'"F16"', 1), b"version https://git-lfs.github.com/spec/v1"):
                with self.subTest(path.name, size=len(damaged)):
                    path.write_bytes(damaged)
                    words = self.merge(fails=True, save=False)
                    self.assertIn(str(path), words)
                    self.assertIn("again", words)
            path.write_bytes(whole)
        config = self.adapter / "adapter_config.json"
        for text, words in (("{", "cannot be read"), ("[]", "is no JSON object")):
            config.write_text(text)
            self.assertIn(f"{config} {words}", self.merge(fails=True))
        config.unlink()
        self.assertIn(f"{self.adapter} has no adapter_config.json", self.merge(fails=True))
        self.set_config()
        words = self.merge(fails=True, base=self.scratch / "absent")
        self.assertIn("absent: there is no such folder; the adapter was trained on lerobot/pi0_base", words)
        self.assertIn("has no model.safetensors", self.merge(fails=True, base=self.adapter))
        (self.adapter / "adapter_model.safetensors").rename(self.adapter / "adapter_model.bin")
        self.assertIn("adapter_model.bin is pickled", self.merge(fails=True, save=False))

    def test_the_output_folder(self):
        self.add_lora(Q)
        stale = self.out.with_name("merged.123456789.tmp")
        stale.mkdir(parents=True)
        (stale / "model.safetensors").write_text("of a merge that was killed")
        self.merge()
        result = subprocess.run([sys.executable, SCRIPT, self.adapter, "--base", self.base, "--out", self.out],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"{self.out} is there already", result.stderr)
        self.inspect()

    def test_help_needs_no_packages(self):
        (self.scratch / "numpy.py").write_text("raise ModuleNotFoundError('No module named numpy')")
        environment = {**os.environ, "PYTHONPATH": str(self.scratch)}
        result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, env=environment)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("--base BASE", result.stdout)
        result = subprocess.run([sys.executable, SCRIPT, self.adapter, "--base", self.base, "--out", self.out],
                                capture_output=True, text=True, env=environment)
        self.assertIn("pip install numpy", result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
