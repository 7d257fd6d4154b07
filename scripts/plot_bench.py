#!/usr/bin/env python3
"""Plots what `shallowpi-infer bench --sweep ... --json FILE` measured: total time against layers, a line per
number of vision tokens. Usage: plot_bench.py FILE.json OUT.png (needs matplotlib)."""
import json
import sys


def main(source: str, target: str) -> None:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with open(source) as file:
        report = json.load(file)
    lines: dict[int, list[tuple[int, float]]] = {}
    for result in report["results"]:
        point = (result["layers"], result["ms"]["total"]["p50"])
        lines.setdefault(result["vision_tokens"], []).append(point)
    for tokens, points in sorted(lines.items()):
        plt.plot(*zip(*sorted(points)), marker="o", label=f"{tokens} tokens per camera")
    settings = report["settings"]
    plt.title(f"{settings['model']}, {settings['dtype']}, {settings['steps']} steps, {report['device']['name']}")
    plt.xlabel("layers")
    plt.ylabel("ms per chunk (median)")
    plt.ylim(bottom=0)
    plt.legend()
    plt.grid(alpha=0.3)
    plt.savefig(target, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit()
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
