#!/usr/bin/env python3
"""Writes golden.json: ids from Python's sentencepiece (0.2.3) and prompts as openpi's and LeRobot's Python writes them.

usage: make_golden.py      needs: sentencepiece, numpy
"""
import json
import pathlib

import numpy as np
import sentencepiece

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE / "small.model"
TEXTS = ["pick up the alphabet soup and place it in the basket", "\n", "two\nlines", "  leading and  double spaces ",
         "Task: open the drawer, State: 128 -1 255 0;\nAction: ", "été, 日本語, \U0001f916", "snake_case", "<bos> <0x41>", ""]
PROMPTS = ["pick up the milk and place it in the basket", "  Open_the_drawer \n", "first\nsecond_third", ""]
STATES = [[0.0, 0.5, -0.5, 0.999, 1.0, 1.5, -1.0, -1.0001], [-7.0, 0.0078125, 0.0078124, -0.9921875]]


def clean(text):
    return text.strip().replace("_", " ").replace("\n", " ")


def prompt(tokenizer, mode, text, state):
    """openpi models/tokenizer.py; pads of `pi05_state_padded32` as in LeRobot 0.4."""
    if mode in ("pi0_plain", "pi05_no_state"):
        return [tokenizer.bos_id()] + tokenizer.encode(clean(text)) + tokenizer.encode("\n")
    if mode == "lerobot_pi0":  # its newline step, then one call of the tokenizer
        return [tokenizer.bos_id()] + tokenizer.encode(text if text.endswith("\n") else text + "\n")
    if mode == "pi05_state_padded32":
        state = list(state) + [0.0] * (32 - len(state))
    bins = np.digitize(np.array(state, np.float64), bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    return [tokenizer.bos_id()] + tokenizer.encode(f"Task: {clean(text)}, State: {' '.join(map(str, bins))};\nAction: ")


def main():
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))
    values = [i / 512 for i in range(-520, 521)]
    bins = np.digitize(np.array(values), bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    golden = {
        "texts": [{"text": text, "ids": tokenizer.encode(text)} for text in TEXTS],
        "prompts": [{"mode": mode, "text": text, "state": state, "ids": prompt(tokenizer, mode, text, state)}
                    for mode in ("pi0_plain", "lerobot_pi0", "pi05_state", "pi05_state_padded32", "pi05_no_state")
                    for text in PROMPTS for state in STATES],
        "state_bins_512ths": {"first": -520, "bins": bins.tolist()},
    }
    (HERE / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
