#!/usr/bin/env python3
"""Reads a run's TensorBoard events with the real tensorboard and compares them with metrics.jsonl.

    tensorboard_events.py path/to/shallowpi-distill
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import kill_resume


def main():
    with tempfile.TemporaryDirectory(prefix="shallowpi-events-") as scratch:
        run = Path(scratch) / "run"
        (Path(scratch) / "config.yaml").write_text("seed: 3\n")
        for steps in (6, 12):  # the second goes on, with an event file of its own
            subprocess.run(kill_resume.command(sys.argv[1], run) + [f"train.steps={steps}"], check=True)
        events = EventAccumulator(str(run / "tensorboard"))
        events.Reload()
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for tag in ("loss", "loss_task", "gradient_norm", "learning_rate", "held_out_loss"):
            expected = {line["step"]: line[tag] for line in lines if tag in line}
            found = {event.step: event.value for event in events.Scalars(tag)}
            assert expected and found.keys() == expected.keys(), (tag, found, expected)
            for step, value in expected.items():
                assert abs(found[step] - value) <= 1e-6 * abs(value), (tag, step, found[step], value)
        print(f"{len(lines)} lines agree with TensorBoard")


if __name__ == "__main__":
    sys.exit(main())
