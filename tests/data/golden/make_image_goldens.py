#!/usr/bin/env python3
"""Writes images.safetensors: what Pillow and PyTorch make of test images. Made with Pillow 11.3.0 and torch 2.11.0.

Pillow 13 resizes a tall, narrow image (301x17) vertically first; the policies were trained with the older order.

    tests/data/golden/make_image_goldens.py

The images themselves are a formula that image_test.cpp repeats. Large results are kept as one checksum per row.
Names: pillow.<height>x<width>-<size> uint8 [size, size, 3], pillow_rows.<...> int64 [size],
torch.<height>x<width>-<size> float32 [3, size, size], augment.<n> float32 [3, 40, 40] with augment_draw.<n>:
crop side, top, left, degrees, brightness, contrast, saturation.
"""
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save_file

PILLOW = [(480, 640, 224), (128, 128, 224), (360, 360, 224), (17, 301, 224), (256, 256, 224), (301, 17, 56),
          (64, 64, 56), (223, 224, 224), (1, 1, 8), (720, 1280, 224), (3, 5, 7)]
TORCH = [(48, 64, 32), (20, 20, 33), (90, 45, 28), (7, 3, 16)]
# crop side, top, left, degrees, brightness, contrast, saturation
DRAWS = [(38, 1, 2, 4.0, 1.2, 0.7, 1.4), (38, 0, 0, -3.5, 0.7, 1.4, 0.5), (40, 0, 0, 0.0, 1.3, 1.4, 1.5),
         (38, 2, 1, 0.05, 1.0, 1.0, 1.0)]


def picture(height, width):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    values = y * y * 7 + x * 13 + (x * y) % 31 * 5 + c * 91 + ((x // 3 + y // 5) % 2) * 100
    return (values % 256).astype(np.uint8)


def fit(height, width, size):
    ratio = max(width / size, height / size)
    return int(height / ratio), int(width / ratio)


def pillow(height, width, size):
    """openpi_client.image_tools.resize_with_pad."""
    image = Image.fromarray(picture(height, width))
    if (height, width) == (size, size):
        return np.asarray(image)
    rows, columns = fit(height, width, size)
    out = Image.new("RGB", (size, size), 0)
    out.paste(image.resize((columns, rows), resample=Image.BILINEAR),
              (max(0, int((size - columns) / 2)), max(0, int((size - rows) / 2))))
    return np.asarray(out)


def lerobot(height, width, size):
    """LeRobot's resize_with_pad_torch on [0, 1], then to [-1, 1]."""
    image = torch.from_numpy(picture(height, width)).permute(2, 0, 1)[None].float() / 255
    rows, columns = fit(height, width, size)
    image = F.interpolate(image, size=(rows, columns), mode="bilinear", align_corners=False).clamp(0, 1)
    top, more_rows = divmod(size - rows, 2)
    left, more_columns = divmod(size - columns, 2)
    image = F.pad(image, (left, left + more_columns, top, top + more_rows), value=0.0)
    return (image[0] * 2 - 1).numpy()


def augment(size, draw):
    """openpi's preprocess_observation_pytorch, with given numbers for its random ones."""
    crop, top, left, degrees, brightness, contrast, saturation = draw
    image = torch.from_numpy(picture(size, size)).permute(2, 0, 1)[None].float() / 255
    if crop != size:
        image = F.interpolate(image[:, :, top:top + crop, left:left + crop], size=(size, size), mode="bilinear",
                              align_corners=False)
    if abs(degrees) > 0.1:
        line = torch.linspace(-1, 1, size)
        grid_y, grid_x = torch.meshgrid(line, line, indexing="ij")
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        grid = torch.stack([grid_x * cosine - grid_y * sine, grid_x * sine + grid_y * cosine], -1)
        image = F.grid_sample(image, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
    image = image * brightness
    mean = image.mean(dim=[1, 2, 3], keepdim=True)
    image = (image - mean) * contrast + mean
    gray = image.mean(dim=1, keepdim=True)
    image = gray + (image - gray) * saturation
    return (image.clamp(0, 1)[0] * 2 - 1).numpy()


def main():
    tensors = {}
    for height, width, size in PILLOW:
        image, name = pillow(height, width, size), f"{height}x{width}-{size}"
        weights = np.arange(1, image[0].size + 1)
        tensors[f"pillow_rows.{name}"] = (image.reshape(size, -1).astype(np.int64) * weights).sum(axis=1)
        if size <= 56:
            tensors[f"pillow.{name}"] = np.ascontiguousarray(image)
    for height, width, size in TORCH:
        tensors[f"torch.{height}x{width}-{size}"] = np.ascontiguousarray(lerobot(height, width, size))
    for n, draw in enumerate(DRAWS):
        tensors[f"augment.{n}"] = np.ascontiguousarray(augment(40, draw))
        tensors[f"augment_draw.{n}"] = np.array(draw, dtype=np.float64)
    path = pathlib.Path(__file__).with_name("images.safetensors")
    save_file(tensors, path)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
