"""Writes adamw.safetensors: what torch.optim.AdamW makes of given weights and gradients.

Run with torch 2.11 and safetensors: python make_adamw.py
Holds `weights.k` after k steps (k = 0, 1, 2, 20), the gradients `gradients` [20, N], and clipping: `clipped` is
`gradients[0]` after clip_grad_norm_ to 1.0. The settings are openpi's but for a weight decay that can be seen.
"""
import torch
from safetensors.torch import save_file

torch.manual_seed(7)
torch.set_num_threads(1)
size, steps = 200, 20
start = torch.randn(size)
# Magnitudes over many decades, and some zeros.
gradients = torch.randn(steps, size) * 10 ** torch.linspace(-6, 1, size)
gradients[:, ::17] = 0

weights = torch.nn.Parameter(start.clone())
optimizer = torch.optim.AdamW([weights], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, foreach=False)
out = {"weights.0": start.clone(), "gradients": gradients.clone()}
for step in range(steps):
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 / (step + 1)
    weights.grad = gradients[step].clone()
    optimizer.step()
    if step + 1 in (1, 2, 20):
        out[f"weights.{step + 1}"] = weights.detach().clone()
state = optimizer.state[weights]
out["exp_avg"], out["exp_avg_sq"] = state["exp_avg"].clone(), state["exp_avg_sq"].clone()

weights.grad = gradients[0].clone()
out["norm"] = torch.nn.utils.clip_grad_norm_([weights], 1.0).reshape(1)
out["clipped"] = weights.grad.clone()
save_file(out, "adamw.safetensors")
