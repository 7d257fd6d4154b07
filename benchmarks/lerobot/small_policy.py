"""LeRobot's own pi0.5 modules at small sizes, with random weights, and inputs for them.

LeRobot fixes the sizes of its networks in code (a Gemma variant table, constants for vocabulary and vision tower); here
its classes are built from configurations that are corrected just before construction. The code that runs is LeRobot's.
"""
from __future__ import annotations

import dataclasses
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from lerobot.policies.pi05 import modeling_pi05 as pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from safetensors.torch import load_file, save_file

HORIZON, ACTION_DIM = 10, 32


@dataclasses.dataclass
class Sizes:
    width: int
    mlp: int
    head_dim: int
    expert_width: int
    expert_mlp: int
    vision_width: int
    vision_mlp: int
    vision_depth: int
    image: int
    vocab: int
    batch: int
    depth: int = 18


SIZES = {
    "tiny": Sizes(width=64, mlp=96, head_dim=8, expert_width=32, expert_mlp=48, vision_width=64, vision_mlp=96,
                  vision_depth=2, image=56, vocab=256, batch=8),
    "512/256": Sizes(width=512, mlp=2048, head_dim=64, expert_width=256, expert_mlp=1024, vision_width=256,
                     vision_mlp=1024, vision_depth=4, image=112, vocab=4096, batch=2),
}


def make_network(sizes: Sizes, compiled: bool = False) -> torch.nn.Module:
    """LeRobot's PI05Pytorch with uninitialised (default) weights; `compiled`: under torch.compile, as LeRobot does it."""

    def gemma(variant: str):
        width, mlp = (sizes.width, sizes.mlp) if variant == "gemma_2b" else (sizes.expert_width, sizes.expert_mlp)
        return pi05.GemmaConfig(width, sizes.depth, mlp, 8, 1, sizes.head_dim)

    def small_paligemma(config):
        config._vocab_size = config.text_config.vocab_size = sizes.vocab
        config.image_token_index = config.image_token_id = sizes.vocab - 1
        vision = config.vision_config
        vision.hidden_size, vision.intermediate_size = sizes.vision_width, sizes.vision_mlp
        vision.num_hidden_layers, vision.num_attention_heads, vision.patch_size = sizes.vision_depth, 16, 14
        vision.projection_dim = config.projection_dim = sizes.width
        return paligemma_class(config)

    def small_expert(config):
        config.vocab_size = sizes.vocab
        return expert_class(config)

    names = ("get_gemma_config", "PaliGemmaForConditionalGenerationWithPiGemma", "PiGemmaForCausalLM")
    originals = {name: getattr(pi05, name) for name in names}
    paligemma_class, expert_class = originals[names[1]], originals[names[2]]
    for name, replacement in zip(names, (gemma, small_paligemma, small_expert)):
        setattr(pi05, name, replacement)
    try:
        config = PI05Config(chunk_size=HORIZON, n_action_steps=HORIZON, image_resolution=(sizes.image, sizes.image),
                            dtype="float32", device="cpu", compile_model=compiled)
        return pi05.PI05Pytorch(config)
    finally:
        for name, original in originals.items():
            setattr(pi05, name, original)


def randomise(network: torch.nn.Module, seed: int) -> None:
    """Scaled normal weights everywhere, norms near the identity, adaRMS and biases small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(values / parameter[0].numel() ** 0.5)
            else:
                is_layer_norm = name.endswith("weight") and ("layer_norm" in name or "post_layernorm" in name)
                parameter.copy_(values * 0.1 + (1.0 if is_layer_norm else 0.0))


def save_openpi(network: torch.nn.Module, folder: pathlib.Path) -> None:
    """The weights as an openpi folder: no prefix, the tied pair once."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    tensors.pop("paligemma_with_expert.paligemma.lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_openpi(network: torch.nn.Module, folder: pathlib.Path) -> None:
    missing, unexpected = network.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if unexpected or any("paligemma.lm_head" not in name for name in missing):
        raise SystemExit(f"{folder}: missing {missing}, unexpected {unexpected}")


def make_inputs(sizes: Sizes, batch: int, cameras: int, masked_cameras: int, tokens: int, lengths: list[int], seed: int):
    """Inputs by the names of shallowpi's tensor files; the last `masked_cameras` cameras are masked out."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for k in range(cameras):
        present = k < cameras - masked_cameras
        image = torch.rand(batch, 3, sizes.image, sizes.image, generator=generator) * 2 - 1
        inputs[f"in.image_{k}"] = image if present else torch.full_like(image, -1.0)  # as LeRobot fills a missing one
        inputs[f"in.image_mask_{k}"] = torch.full((batch,), present)
    mask = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    ids = torch.randint(3, sizes.vocab - 2, (batch, tokens), generator=generator)
    inputs["in.tokens"], inputs["in.token_mask"] = torch.where(mask, ids, 0), mask
    for name in ("actions", "noise"):
        inputs[f"in.{name}"] = torch.randn(batch, HORIZON, ACTION_DIM, generator=generator)
    inputs["in.time"] = torch.rand(batch, generator=generator) * 0.999 + 0.001
    return inputs
