"""LeRobot's side of the comparison: the same tasks, options and output as benchmarks/policy_benchmark.cpp.
--compile runs it under torch.compile, in the mode of LeRobot's `compile_model`."""
import argparse
import json
import pathlib
import time

import torch
from safetensors.torch import load_file

import small_policy


def memory_mib(field: str) -> float:
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["train", "sample"])
    parser.add_argument("--size", choices=small_policy.SIZES, required=True)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    baseline_mib = memory_mib("VmRSS")

    network = small_policy.make_network(small_policy.SIZES[args.size], args.compile)
    small_policy.load_openpi(network, args.checkpoint)
    inputs = load_file(args.input)
    cameras = [name for name in inputs if name.startswith("in.image_") and "mask" not in name]
    images = [inputs[f"in.image_{k}"] for k in range(len(cameras))]
    masks = [inputs[f"in.image_mask_{k}"] for k in range(len(cameras))]
    prompt = inputs["in.tokens"], inputs["in.token_mask"]

    if args.task == "train":
        network.train()
        parameters = list(network.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=2.5e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)

        def once() -> float:
            loss = network(images, masks, *prompt, inputs["in.actions"], inputs["in.noise"], inputs["in.time"]).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()
    else:
        network.eval()

        @torch.no_grad()
        def once() -> float:
            return network.sample_actions(images, masks, *prompt, noise=inputs["in.noise"], num_steps=10).abs().mean().item()

    out = {"task": args.task, "first_result": once()}
    for _ in range(args.warmup - 1):
        once()
    out["cpu_seconds"] = []
    for _ in range(args.repetitions):
        start = time.process_time()
        once()
        out["cpu_seconds"].append(time.process_time() - start)
    out["baseline_mib"], out["peak_mib"] = baseline_mib, memory_mib("VmHWM")
    print(json.dumps(out))


if __name__ == "__main__":
    main()
