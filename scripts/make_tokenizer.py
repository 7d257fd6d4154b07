#!/usr/bin/env python3
"""Makes the small SentencePiece models: that of the tests and, with --whole-numbers, libero_mini's.

It follows PaliGemma's conventions, so that everything that holds for it holds for the real one: pad 0, eos 1, bos 2,
unk 3; BPE with byte fallback; digits split; "\\n" a piece of its own; no dummy prefix, no whitespace removal, no
normalisation. The corpus is made here and the training is single-threaded: the same sentencepiece version writes the
same bytes. With --whole-numbers each of the state's 256 bins is one piece instead of one per digit: a LIBERO prompt then
has about 30 tokens instead of 50, which halves the work of a small backbone.

needs: pip install sentencepiece==0.2.3
"""
import argparse
import io
import pathlib
import random
import sys

try:
    import sentencepiece
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; pip install sentencepiece==0.2.3")

OBJECTS = ["alphabet soup", "cream cheese", "salad dressing", "bbq sauce", "ketchup", "tomato sauce", "butter", "milk",
           "chocolate pudding", "orange juice"]
INSTRUCTIONS = [f"pick up the {name} and place it in the basket" for name in OBJECTS] + [
    f"pick up the black bowl {where} and place it on the plate"
    for where in ["between the plate and the ramekin", "next to the ramekin", "from table center", "on the cookie box",
                  "in the top drawer of the wooden cabinet", "on the ramekin", "next to the cookie box", "on the stove",
                  "next to the plate", "on the wooden cabinet"]] + [
    "open the middle drawer of the cabinet", "put the bowl on the stove", "put the wine bottle on top of the cabinet",
    "open the top drawer and put the bowl inside", "put the bowl on top of the cabinet", "turn on the stove",
    "push the plate to the front of the stove", "put the cream cheese in the bowl", "put the bowl on the plate",
    "put the wine bottle on the rack", "put both the alphabet soup and the tomato sauce in the basket",
    "turn on the stove and put the moka pot on it", "put both moka pots on the stove",
    "put the black bowl in the bottom drawer of the cabinet and close it",
    "put the white mug on the left plate and put the yellow and white mug on the right plate",
    "pick up the book and place it in the back compartment of the caddy",
    "put the yellow and white mug in the microwave and close it",
    "transfer the cube from the left arm to the right arm", "insert the peg into the socket",
]


def corpus():
    """Instructions, and whole pi0.5 prompts with random states (one line each: "\\n" is a piece of its own)."""
    rng = random.Random(0)
    for instruction in INSTRUCTIONS:
        yield instruction
        yield instruction.capitalize() + "."
        for dims in (7, 8, 14):
            state = " ".join(str(rng.randrange(-1, 256)) for _ in range(dims))
            yield f"Task: {instruction}, State: {state};"
            yield "Action: "


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="such as tests/data/tokenizer/small.model")
    parser.add_argument("--whole-numbers", action="store_true", help="one piece per number from 0 to 255, 1024 in all")
    options = parser.parse_args()
    numbers = [f"\u2581{number}" for number in range(256)] if options.whole_numbers else []
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(corpus())), model_writer=model, model_type="bpe",
        vocab_size=1024 if options.whole_numbers else 512,
        character_coverage=1.0, byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, user_defined_symbols=["\n", *numbers], num_threads=1, minloglevel=2)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(model.getvalue())
    print(f"wrote {options.output} ({options.output.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
