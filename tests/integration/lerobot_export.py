#!/usr/bin/env python3
"""Loads exports of ours in the real LeRobot 0.6.1 and compares what it computes with what we compute.

usage: lerobot_export.py BIN_DIR PARITY_DIR        (with the python of scripts/lerobot_env.sh, HF_HUB_OFFLINE=1)

For pi0 and pi0.5: a teacher folder is put together from the parity fixture, a 6-layer student made from it, exported to
both packages' formats and loaded strictly. LeRobot must sample the same actions, and its processors must normalise as
openpi does. The openpi export goes into the same network through safetensors' strict loader, as openpi loads it.
"""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import tokenizer_processor
from lerobot.utils.constants import OBS_STATE
from safetensors.torch import load_file, load_model, save_file

BIN, PARITY = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
LAYERS, TOLERANCE = 6, 5e-5
WIDTH, MLP, EXPERT_WIDTH, EXPERT_MLP, HEAD = 64, 96, 32, 48, 8  # the fixture's sizes
VISION_DEPTH, VISION_WIDTH, VOCABULARY = 2, 64, 256


def use_small_sizes(module):
    """LeRobot hard-codes the released sizes; the fixture's are put in their place (but not the depth)."""
    mapping, network = module.CONFIG_MAPPING, module.PaliGemmaForConditionalGenerationWithPiGemma

    def gemma(variant):
        width, mlp = (WIDTH, MLP) if variant == "gemma_2b" else (EXPERT_WIDTH, EXPERT_MLP)
        return module.GemmaConfig(width, 18, mlp, 8, 1, HEAD)

    class SmallMapping:
        def __getitem__(self, key):
            def make(**arguments):
                if "vocab_size" in arguments:
                    arguments["vocab_size"] = VOCABULARY
                config = mapping[key](**arguments)
                if key == "paligemma":
                    vision = config.vision_config
                    vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads = VISION_WIDTH, VISION_DEPTH, 16
                    vision.patch_size = 14
                return config

            return make

    def small_network(config):
        config.text_config.vocab_size = config._vocab_size = VOCABULARY
        config.image_token_index = config.image_token_id = VOCABULARY - 1
        config.vision_config.intermediate_size = MLP
        config.vision_config.projection_dim = config.projection_dim = WIDTH
        return network(config)

    module.get_gemma_config = gemma
    module.CONFIG_MAPPING = SmallMapping()
    module.PaliGemmaForConditionalGenerationWithPiGemma = small_network


def run(program, *arguments):
    subprocess.run([str(BIN / program), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def make_teacher(folder, kind, stats):
    weights = load_file(PARITY / "shared.safetensors") | load_file(PARITY / kind / "weights.safetensors")
    assets = folder / "assets" / "physical-intelligence" / "libero"
    assets.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"action_horizon": 10}))
    (assets / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))


def random_stats(rng):
    def feature(width):
        low, high = rng.normal(size=width) - 2, rng.normal(size=width) + 2
        return {"mean": rng.normal(size=width).tolist(), "std": rng.uniform(0.01, 2, width).tolist(),
                "q01": low.tolist(), "q99": high.tolist()}

    return {"state": feature(8), "actions": feature(7)}


def load_export(folder):
    spec = importlib.util.spec_from_file_location("load_shallow", folder / "load_shallow.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader.load(folder).eval()


def sample(network, kind, io):
    images = [io[f"in.image_{i}"] for i in range(2)]
    masks = [io[f"in.image_mask_{i}"] for i in range(2)]
    state = [io["in.state"]] if kind == "pi0" else []
    with torch.no_grad():
        return network.sample_actions(images, masks, io["in.tokens"].long(), io["in.token_mask"], *state,
                                      noise=io["in.noise"], num_steps=10)


def expect_near(got, expected, tolerance, what):
    gap = (got.double() - expected.double()).abs().max().item()
    print(f"  {what}: largest gap {gap:.2g} (allowed {tolerance:.2g})")
    if not gap <= tolerance:
        sys.exit(f"{what} differs by {gap}")


class NoTokenizer:
    """The real one is a gated download; the prompt is compared as text."""

    @staticmethod
    def from_pretrained(*_, **__):
        return NoTokenizer()

    def __call__(self, text, **_):
        self.text = text
        return {"input_ids": torch.zeros(len(text), 4, dtype=torch.int64), "attention_mask": torch.ones(len(text), 4)}


def scaled(raw, stats, kind):
    """openpi's normalisation: z-scores for pi0, quantiles for pi0.5."""
    value = {key: torch.tensor(values, dtype=torch.float64) for key, values in stats.items()}
    if kind == "pi0":
        return (raw - value["mean"]) / (value["std"] + 1e-6)
    return (raw - value["q01"]) / (value["q99"] - value["q01"] + 1e-6) * 2 - 1


def check_processors(folder, config, kind, stats, rng):
    """State, prompt and actions through LeRobot's pipelines against openpi's formulas. Returns the prompt."""
    tokenizer_processor.AutoTokenizer = NoTokenizer
    preprocess, postprocess = make_pre_post_processors(config, str(folder))
    raw = torch.from_numpy(rng.uniform(-1, 1, size=8).astype(np.float32))
    batch = preprocess({OBS_STATE: raw, "task": "put it_there"})
    expect_near(batch[OBS_STATE][0], scaled(raw, stats["state"], kind), 1e-5, "normalised state")
    actions = torch.from_numpy(rng.normal(size=(1, 7)).astype(np.float32))
    # openpi's pi0_libero predicts actions relative to the state, but for the gripper; its pi05_libero does not
    relative = torch.cat([raw[:6], torch.zeros(1)]) if kind == "pi0" else torch.zeros(7)
    back = scaled(postprocess(actions) - relative, stats["actions"], kind)
    expect_near(back, actions, 1e-4, "actions, un-normalised and normalised again")
    tokenizer = next(step for step in preprocess.steps if hasattr(step, "input_tokenizer")).input_tokenizer
    return list(tokenizer.text), batch[OBS_STATE][0]


def expect_prompt(got, expected):
    print(f"  prompt: {got!r}")
    if got != [expected]:
        sys.exit(f"the prompt should be {expected!r}")


def check_state_prompt(scratch, config, stats, rng):
    """A pi0.5 policy whose prompt has the state."""
    path = scratch / "student" / "shallowpi.json"
    path.write_text(path.read_text().replace("pi05_no_state", "pi05_state"))
    run("shallowpi-distill", "export", "--checkpoint", scratch / "student", "--to", "lerobot", scratch / "with_state")
    prompt, state = check_processors(scratch / "with_state", config, "pi05", stats, rng)
    bins = " ".join(str(int(b)) for b in np.digitize(state.numpy(), np.linspace(-1, 1, 257)[:-1]) - 1)
    expect_prompt(prompt, f"Task: put it there, State: {bins};\nAction: ")


def check(kind, module, scratch):
    print(kind)
    use_small_sizes(module)
    rng = np.random.default_rng(0)
    stats = random_stats(rng)
    make_teacher(scratch / "teacher", kind, stats)
    run("shallowpi-distill", "--config", f"configs/{kind}_libero_l6.yaml", f"teacher.checkpoint={scratch / 'teacher'}",
        f"student.layers={LAYERS}", "--init-only", scratch / "student")
    io = load_file(PARITY / kind / "io.safetensors")
    run("shallowpi-infer", "run", "--checkpoint", scratch / "student", "--input", PARITY / kind / "io.safetensors",
        "--output", scratch / "ours.safetensors", "--dtype", "float32")
    ours = load_file(scratch / "ours.safetensors")["out.sampled_actions"]
    for target in ("lerobot", "openpi"):
        run("shallowpi-distill", "export", "--checkpoint", scratch / "student", "--to", target, scratch / target)

    policy = load_export(scratch / "lerobot")
    expect_near(sample(policy.model, kind, io), ours, TOLERANCE, "actions of the LeRobot export")
    prompt, _ = check_processors(scratch / "lerobot", policy.config, kind, stats, rng)
    expect_prompt(prompt, "put it_there\n")
    if kind == "pi05":
        check_state_prompt(scratch, policy.config, stats, rng)

    # openpi's network has these names and ties the pair; its loader is this one.
    network = policy.model
    network.paligemma_with_expert.paligemma.lm_head.weight = \
        network.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    load_model(network, scratch / "openpi" / "model.safetensors", strict=True)
    expect_near(sample(network, kind, io), ours, TOLERANCE, "actions of the openpi export")
    exported = json.loads((scratch / "openpi/assets/physical-intelligence/libero/norm_stats.json").read_text())
    if exported["norm_stats"] != stats:
        sys.exit("the openpi export changed the statistics")


for kind, module in (("pi0", modeling_pi0), ("pi05", modeling_pi05)):
    with tempfile.TemporaryDirectory() as folder:
        check(kind, module, pathlib.Path(folder))
print("LeRobot loads our exports and computes what we compute")
