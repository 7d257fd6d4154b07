#!/usr/bin/env python3
"""Writes golden.json: the four normalisations and the statistics of random rows, computed by numpy in float64.

usage: make_golden.py      needs: numpy
"""
import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def normalised(mode, stats, x):
    mean, std, q01, q99 = (np.array(stats[key]) for key in ("mean", "std", "q01", "q99"))
    if mode == "zscore":
        return (x - mean) / (std + 1e-6)
    if mode == "quantile":
        return (x - q01) / (q99 - q01 + 1e-6) * 2.0 - 1.0
    if mode == "lerobot_mean_std":
        return (x - mean) / (std + 1e-8)
    width = np.where(q99 - q01 == 0, 1e-8, q99 - q01)
    return 2.0 * (x - q01) / width - 1.0


def unnormalised(mode, stats, y):
    mean, std, q01, q99 = (np.array(stats[key]) for key in ("mean", "std", "q01", "q99"))
    if mode == "zscore":
        return y * (std + 1e-6) + mean
    if mode == "quantile":
        return (y + 1.0) / 2.0 * (q99 - q01 + 1e-6) + q01
    if mode == "lerobot_mean_std":
        return y * std + mean
    width = np.where(q99 - q01 == 0, 1e-8, q99 - q01)
    return (y + 1.0) / 2.0 * width + q01


def main():
    rng = np.random.default_rng(7)
    stats = {"mean": [0.3, -2.0, 100.0, 1e-3], "std": [1.5, 1e-4, 30.0, 0.0], "q01": [-2.0, -2.0002, 20.0, 1e-3],
             "q99": [2.5, -1.9998, 180.0, 1e-3]}
    x = np.array([0.7, -2.0001, 55.5, 1.0e-3], np.float32).astype(np.float64)
    y = np.array([0.25, -1.5, 0.9, 0.1], np.float32).astype(np.float64)
    rows = (rng.normal(size=(257, 3)) * [1.0, 5.0, 1e-3] + [0.0, -3.0, 0.5]).astype(np.float32)
    wide = rows.astype(np.float64)
    golden = {
        "stats": stats, "x": x.tolist(), "y": y.tolist(),
        "modes": {mode: {"normalised": normalised(mode, stats, x).tolist(), "unnormalised": unnormalised(mode, stats, y).tolist()}
                  for mode in ("zscore", "quantile", "lerobot_mean_std", "lerobot_quantiles")},
        "rows": [[float(v) for v in row] for row in rows],
        "rows_stats": {"mean": wide.mean(0).tolist(), "std": wide.std(0).tolist(),
                       "q01": np.quantile(wide, 0.01, axis=0).tolist(), "q99": np.quantile(wide, 0.99, axis=0).tolist()},
    }
    (HERE / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
