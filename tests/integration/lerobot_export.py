#!/usr/bin/env python3
"""Loads exports of ours in the real LeRobot 0.6.1 and compares what it computes with what we compute.

usage: lerobot_export.py BIN_DIR PARITY_DIR        (with the python of scripts/lerobot_env.sh, HF_HUB_OFFLINE=1)

For pi0 and pi0.5: a teacher folder is put together from the parity fixture, a 6-layer student made from it, exported to
both packages' formats and loaded strictly. LeRobot must sample the same actions, and its processors must normalise as
openpi does. The openpi export goes into the same network through safetensors' strict loader, as openpi loads it.
LeRobot alone must refuse the student; load_shallow.py must bring it, and the teacher, into LeRobot's own command.
"""
import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import runpy
import shutil
import subprocess
import sys
import tempfile
import types

import numpy as np
import torch
from lerobot.configs import parser
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.factory import make_policy, make_pre_post_processors
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
                    vision.hidden_size, vision.num_hidden_layers = VISION_WIDTH, VISION_DEPTH
                    vision.num_attention_heads, vision.patch_size = 16, 14
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
    (scratch / "student" / "manifest.json").unlink()  # of the file as it was
    run("shallowpi-distill", "export", "--checkpoint", scratch / "student", "--to", "lerobot", scratch / "with_state")
    prompt, state = check_processors(scratch / "with_state", config, "pi05", stats, rng)
    bins = " ".join(str(int(b)) for b in np.digitize(state.numpy(), np.linspace(-1, 1, 257)[:-1]) - 1)
    expect_prompt(prompt, f"Task: put it there, State: {bins};\nAction: ")


@parser.wrap()
def evaluate(config: EvalPipelineConfig):
    """lerobot-eval as far as its policy, which is made in a thread; what follows needs a simulator."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        evaluate.policy = pool.submit(make_policy, config.policy, env_cfg=config.env).result()


def launch(launcher, *arguments):
    """python LAUNCHER ARGUMENT..., in this process, which has the small sizes. What LeRobot prints is dropped."""
    sys.argv = [str(launcher), *map(str, arguments)]
    with contextlib.redirect_stdout(None):
        try:
            runpy.run_path(str(launcher), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def expect_error(command, code, *messages):
    """Runs Python, which must end with `code` and say `messages`."""
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    if result.returncode != code or any(message not in result.stderr for message in messages):
        sys.exit(f"exit code {result.returncode}, and this instead of {messages}: {result.stderr}")
    print(f"  refused: {messages[0]}")


def check_lerobot_launcher(launcher, folder, layers):
    """The real entry point of lerobot-eval, up to its module, gets the policy with all weights of its file."""
    sys.modules["lerobot.scripts.lerobot_eval"] = types.SimpleNamespace(main=evaluate)
    launch(launcher, "lerobot-eval", f"--policy.path={folder}", "--env.type=libero", "--policy.device=cpu")
    loaded, stored = evaluate.policy.state_dict(), load_file(folder / "model.safetensors")
    depth = len(evaluate.policy.model.paligemma_with_expert.gemma_expert.model.layers)
    if depth != layers or loaded.keys() != stored.keys():
        sys.exit(f"lerobot-eval got {depth} layers and {len(loaded)} tensors of {folder}")
    for name, tensor in stored.items():
        if not torch.equal(loaded[name], tensor):
            sys.exit(f"lerobot-eval got other values of {name} than {folder} has")
    print(f"  lerobot-eval gets {depth} layers with their weights")


def check_lerobot_refusals(folder, scratch):
    launcher = folder / "load_shallow.py"
    read = "import sys; from lerobot.policies.factory import PreTrainedConfig as C; C.from_pretrained(sys.argv[1])"
    expect_error(["-c", read, folder], 1, f"Invalid paligemma_variant: gemma_2b_{LAYERS}_layers_needs_load_shallow.py")
    expect_error([launcher], 2, "which command of LeRobot?", "usage: python load_shallow.py")
    expect_error([launcher, "lerobot-walk"], 2, "no command lerobot-walk", "lerobot-eval, ", "lerobot-train")
    # LeRobot itself would print a warning and go on with 18 layers, 12 of them random
    plain = scratch / "plain_names"
    shutil.copytree(folder, plain)
    config = (plain / "config.json").read_text()
    (plain / "config.json").write_text(config.replace(f"_{LAYERS}_layers_needs_load_shallow.py", ""))
    try:
        check_lerobot_launcher(launcher, plain, LAYERS)
    except RuntimeError as error:
        if "did not load the weights" not in str(error):
            raise
        print(f"  refused: {error}")
    else:
        sys.exit("weights that do not fit were taken")


def check_openpi_launcher(launcher, scratch):
    """openpi is no dependency of the tests: a stand-in for the one function of it that the launcher changes."""
    Config = dataclasses.make_dataclass("Config", ["width", "depth"], frozen=True)
    for name in ("openpi", "openpi.models", "openpi.models.gemma"):
        sys.modules[name] = types.ModuleType(name)
    gemma = sys.modules["openpi.models.gemma"]
    gemma.get_config = lambda variant: Config({"gemma_2b": 2048, "gemma_300m": 1024}[variant], 18)
    script = scratch / "script.py"
    script.write_text("import json, sys\njson.dump([__name__, *sys.argv], open(sys.argv[2], 'w'))\n")
    launch(launcher, script, "--out", scratch / "seen.json")
    seen = json.loads((scratch / "seen.json").read_text())
    if seen != ["__main__", str(script), "--out", str(scratch / "seen.json")]:
        sys.exit(f"openpi's script was started as {seen}")
    if gemma.get_config("gemma_300m") != Config(1024, LAYERS):
        sys.exit(f"openpi was told {gemma.get_config('gemma_300m')}")
    expect_error([launcher], 2, "which of openpi's scripts?", "usage: python load_shallow.py")
    expect_error([launcher, "serve_policy.py"], 2, "no script serve_policy.py")


def check(kind, module, scratch):
    print(kind)
    use_small_sizes(module)
    rng = np.random.default_rng(0)
    stats = random_stats(rng)
    make_teacher(scratch / "teacher", kind, stats)
    run("shallowpi-distill", "--config", f"configs/{kind}_libero_l6.yaml", f"teacher.checkpoint={scratch / 'teacher'}",
        f"student.layers={LAYERS}", "policy.horizon=10", "--init-only", scratch / "student")
    io = load_file(PARITY / kind / "io.safetensors")
    run("shallowpi-infer", "run", "--checkpoint", scratch / "student", "--input", PARITY / kind / "io.safetensors",
        "--output", scratch / "ours.safetensors", "--dtype", "float32")
    ours = load_file(scratch / "ours.safetensors")["out.sampled_actions"]
    for target in ("lerobot", "openpi"):
        run("shallowpi-distill", "export", "--checkpoint", scratch / "student", "--to", target, scratch / target)

    whole = scratch / "whole"
    run("shallowpi-distill", "export", "--checkpoint", scratch / "teacher", "--to", "lerobot", whole)
    check_lerobot_refusals(scratch / "lerobot", scratch)
    launcher = scratch / "lerobot" / "load_shallow.py"
    check_lerobot_launcher(launcher, scratch / "lerobot", LAYERS)
    check_lerobot_launcher(launcher, whole, 18)
    check_openpi_launcher(scratch / "openpi" / "load_shallow.py", scratch)
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
