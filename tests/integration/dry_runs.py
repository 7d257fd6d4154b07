#!/usr/bin/env python3
"""Dry runs of every full-size config in configs/ with stand-in checkpoints and demonstrations.

    dry_runs.py path/to/shallowpi-distill          needs numpy and h5py

The teachers have the header of the released files, in openpi's names and shapes, over a hole that takes no disk: a dry
run reads no weights. Layers kept and parameter counts must be those of the architecture, computed here from the pieces.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np

PROJECT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"
QUICKSTART = CONFIGS / "quickstart"
ANY_TEACHER = CONFIGS / "distill_l6.yaml"
ANY_ROBOT = CONFIGS / "finetune.yaml"
TOKENIZER = PROJECT / "tests" / "data" / "tokenizer" / "small.model"
DEPTH, VISION_DEPTH, VOCABULARY = 18, 27, 257152
WIDTH, MLP, EXPERT_WIDTH, EXPERT_MLP, HEADS, HEAD = 2048, 16384, 1024, 4096, 8, 256
VISION_WIDTH, VISION_MLP, PATCH, TOKENS, ACTION_DIM = 1152, 4304, 14, 256, 32
PALIGEMMA = "paligemma_with_expert.paligemma."
EXPERT = "paligemma_with_expert.gemma_expert."

# Live parameters of the pieces, from the models' papers and files (a count of the shapes below must agree).
SHARED = 412_442_352 + 2_361_344 + 526_647_296  # SigLIP, projector, token embedding
BACKBONE_LAYER, BACKBONE_NORM = 110_104_576, 2048
EXPERT_PIECES = {"pi0": (17_303_552, 1024, 3_248_160), "pi05": (23_599_104, 3_148_800, 2_165_792)}


def live_parameters(kind, layers):
    layer, norm, projections = EXPERT_PIECES[kind]
    return SHARED + BACKBONE_NORM + norm + projections + layers * (BACKBONE_LAYER + layer)


def linear(name, rows, columns):
    return {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}


def vision_tower():
    tower = PALIGEMMA + "model.vision_tower.vision_model."
    shapes = {tower + "embeddings.patch_embedding.weight": [VISION_WIDTH, 3, PATCH, PATCH],
              tower + "embeddings.patch_embedding.bias": [VISION_WIDTH],
              tower + "embeddings.position_embedding.weight": [TOKENS, VISION_WIDTH]}
    for i in range(VISION_DEPTH):
        layer = f"{tower}encoder.layers.{i}."
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{norm}.{part}": [VISION_WIDTH] for part in ("weight", "bias")}
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}self_attn.{projection}", VISION_WIDTH, VISION_WIDTH)
        shapes |= linear(layer + "mlp.fc1", VISION_MLP, VISION_WIDTH) | linear(layer + "mlp.fc2", VISION_WIDTH, VISION_MLP)
    shapes |= {f"{tower}post_layernorm.{part}": [VISION_WIDTH] for part in ("weight", "bias")}
    return shapes | linear(PALIGEMMA + "model.multi_modal_projector.linear", WIDTH, VISION_WIDTH)


def stack(prefix, width, mlp, adaptive):
    def norm(name):
        return linear(name + ".dense", 3 * width, width) if adaptive else {name + ".weight": [width]}

    shapes = norm(prefix + "norm")
    for i in range(DEPTH):
        layer = f"{prefix}layers.{i}."
        attention = {"q_proj": [HEADS * HEAD, width], "k_proj": [HEAD, width], "v_proj": [HEAD, width],
                     "o_proj": [width, HEADS * HEAD]}
        shapes |= {f"{layer}self_attn.{name}.weight": shape for name, shape in attention.items()}
        shapes |= {f"{layer}mlp.{name}.weight": [mlp, width] for name in ("gate_proj", "up_proj")}
        shapes[layer + "mlp.down_proj.weight"] = [width, mlp]
        shapes |= norm(layer + "input_layernorm") | norm(layer + "post_attention_layernorm")
    return shapes


def teacher_shapes(kind):
    shapes = vision_tower() | stack(PALIGEMMA + "model.language_model.", WIDTH, MLP, adaptive=False)
    shapes |= stack(EXPERT + "model.", EXPERT_WIDTH, EXPERT_MLP, adaptive=kind == "pi05")
    shapes |= {PALIGEMMA + "lm_head.weight": [VOCABULARY, WIDTH], EXPERT + "lm_head.weight": [VOCABULARY, EXPERT_WIDTH]}
    shapes |= linear("action_in_proj", EXPERT_WIDTH, ACTION_DIM) | linear("action_out_proj", ACTION_DIM, EXPERT_WIDTH)
    if kind == "pi05":
        return shapes | linear("time_mlp_in", EXPERT_WIDTH, EXPERT_WIDTH) | linear("time_mlp_out", EXPERT_WIDTH, EXPERT_WIDTH)
    return (shapes | linear("state_proj", EXPERT_WIDTH, ACTION_DIM)
            | linear("action_time_mlp_in", EXPERT_WIDTH, 2 * EXPERT_WIDTH)
            | linear("action_time_mlp_out", EXPERT_WIDTH, EXPERT_WIDTH))


def write_teacher(folder, kind):
    shapes = teacher_shapes(kind)
    count = sum(int(np.prod(shape)) for shape in shapes.values()) - VOCABULARY * EXPERT_WIDTH
    assert count == live_parameters(kind, DEPTH), f"{kind}: {count} parameters"
    header, end = {"__metadata__": {PALIGEMMA + "model.language_model.embed_tokens.weight": PALIGEMMA + "lm_head.weight"}}, 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_demonstrations(folder):
    """Two episodes of each robot: LIBERO's layout, and ALOHA's with 14 and with 22 joints."""
    random = np.random.default_rng(0)
    steps = 20
    frames = np.zeros((steps, 8, 8, 3), np.uint8)
    with h5py.File(folder / "libero.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "pick up the cup"})
        for name in ("demo_0", "demo_1"):
            demo = data.create_group(name)
            demo["actions"] = random.standard_normal((steps, 7))
            demo["obs/ee_states"], demo["obs/gripper_states"] = random.standard_normal((steps, 6)), random.standard_normal((steps, 2))
            demo["obs/agentview_rgb"] = demo["obs/eye_in_hand_rgb"] = frames
    for robot, joints in (("aloha", 14), ("humanoid", 22)):
        for episode in range(2):
            with h5py.File(folder / f"{robot}_{episode}.hdf5", "w") as file:
                file["action"], file["observations/qpos"] = random.standard_normal((2, steps, joints))
                for camera in ("cam_high", "cam_left_wrist", "cam_right_wrist"):
                    file[f"observations/images/{camera}"] = frames
                file.attrs["language_instruction"] = "fold the towel"


def expected_plan(config):
    """Kind and depth that a config's name promises."""
    kind = "pi0" if "pi0_" in config.name else "pi05"
    layers = re.search(r"_l(\d+)$", config.stem)
    return kind, int(layers.group(1)) if layers else DEPTH


def rounded(text):
    value, unit = re.fullmatch(r"([\d.]+)\s*([kMB]?)", text).groups()
    scale = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}[unit]
    digits = len(value.split(".")[1]) if "." in value else 0
    return float(value) * scale, 0.5 * scale / 10**digits


def check_plan(config, text):
    kind, layers = expected_plan(config)
    rows = dict(re.findall(r"^\|?\s*(\S.*?)\s*\|?\s{2,}\|?\s*(\S.*?)\s*\|?$", text, re.M))
    assert rows["student"] == f"{kind}, {layers} layers", rows
    total = slack = 0.0
    for row in ("parameters trained", "frozen", "dead (no output depends on them)"):
        value, half_a_digit = rounded(rows[row])
        total, slack = total + value, slack + half_a_digit
    expected = live_parameters(kind, layers)
    assert abs(total - expected) <= slack, f"{total} parameters in the plan, {expected} in the architecture"
    if layers < DEPTH:
        kept = [int(layer) for layer in rows["teacher layers kept"].split(", ")]
        assert len(kept) == layers and kept[0] == 0, kept
    return f"{kind} {layers:2d} layers, {expected / 1e9:.3f} B parameters, peak {rows['memory, peak']}"


def main():
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="shallowpi-dry-run-") as scratch:
        scratch = pathlib.Path(scratch)
        write_demonstrations(scratch)
        for kind in ("pi0", "pi05"):
            write_teacher(scratch / kind, kind)
        configs = sorted(path for path in CONFIGS.rglob("*.yaml")
                         if "quickstart" not in path.name and path.parent.name != "libero_mini" and path not in (ANY_TEACHER, ANY_ROBOT))
        assert len(configs) == 27, f"{len(configs)} configs: is the list of checks complete?"
        for config in configs:
            robot = next((name for name in ("aloha", "humanoid") if name in config.name), "libero")
            start = "student" if config.name.startswith("teacher") else "teacher"
            result = subprocess.run(
                [binary, "--config", config, "--dry-run", f"{start}.checkpoint={scratch}/{expected_plan(config)[0]}",
                 f"data.files={scratch}/{robot}*.hdf5", f"data.tokenizer={TOKENIZER}", f"output_dir={scratch}/run",
                 "data.norm_stats=compute"],
                capture_output=True, text=True)
            assert result.returncode == 0, f"{config}: exit code {result.returncode}\n{result.stderr}"
            assert not (scratch / "run").exists(), f"{config}: a dry run wrote to its output folder"
            try:
                print(f"{config.relative_to(CONFIGS)}: {check_plan(config, result.stdout)}")
            except (AssertionError, KeyError) as error:
                raise AssertionError(f"{config}: {error!r}\n{result.stdout}") from error
        check_own_teacher(binary, scratch)
        check_own_robot(binary, scratch)


def check_own_robot(binary, scratch):
    """A base policy is fine-tuned for any robot: here its action expert alone."""
    layer, norm, projections = EXPERT_PIECES["pi05"]
    result = subprocess.run(
        [binary, "--config", ANY_ROBOT, "--dry-run", f"student.checkpoint={scratch}/pi05", f"data.files={scratch}/humanoid*.hdf5",
         f"data.tokenizer={TOKENIZER}", f"output_dir={scratch}/run", "policy.robot.state_dim=22", "policy.robot.action_dim=22",
         'optimizer.freeze=["paligemma_with_expert.paligemma.*"]'], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "22 state dims, 22 action dims" in result.stdout and "computed from the data" in result.stdout, result.stdout
    value, half_a_digit = rounded(re.search(r"parameters trained\s+\|?\s*([\d.]+ [MB])", result.stdout).group(1))
    assert abs(value - DEPTH * layer - norm - projections) <= half_a_digit, result.stdout


def check_own_teacher(binary, scratch):
    """A teacher that says all of its settings needs none in the configuration, and other prompts are refused."""
    options = ["--dry-run", f"teacher.checkpoint={QUICKSTART}/teacher", f"data.files={QUICKSTART}/*.hdf5", f"output_dir={scratch}/own",
               "device=cpu"]
    result = subprocess.run([binary, "--config", ANY_TEACHER, *options], capture_output=True, text=True)
    assert result.returncode == 0 and "prompt" not in result.stderr, result.stderr
    assert re.search(r"student\s+\|?\s*pi0, 6 layers", result.stdout), result.stdout
    assert re.search(r"device\s+\|?\s*cpu, float32", result.stdout), result.stdout
    wrong = subprocess.run([binary, "--config", CONFIGS / "pi05_libero_l6.yaml", *options], capture_output=True, text=True)
    assert wrong.returncode == 2 and "prompt_mode pi05_no_state makes a pi0 policy useless" in wrong.stderr, wrong.stderr


if __name__ == "__main__":
    main()
