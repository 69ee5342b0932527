#!/usr/bin/env python3
"""Makes data/alpaca.json: 52,002 different instructions with the alpaca fields (instruction, input,
output; four in ten with an input), and data/text.txt for the base model. Deterministic."""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import synthetic

EXAMPLES = 52_002
TEXT_CHARACTERS = 2_000_000


def instruction(rand, number):
    given = synthetic.text(rand, 10 + int(rand() * 20)) if rand() < 0.4 else ""
    return {"instruction": f"{number}: {synthetic.text(rand, 12 + int(rand() * 20))}", "input": given,
            "output": synthetic.text(rand, 8 + int(rand() * 30))}


def main():
    rand = synthetic.dice(1)
    synthetic.write_text("data/text.txt", synthetic.text(rand, TEXT_CHARACTERS))
    with open("data/alpaca.json", "w", encoding="utf-8", newline="\n") as file:
        json.dump([instruction(rand, number) for number in range(EXAMPLES)], file, indent=1)
    print(f"data/alpaca.json: {EXAMPLES} instructions; data/text.txt: {TEXT_CHARACTERS} characters")


if __name__ == "__main__":
    main()
