#!/usr/bin/env python3
"""make_data.py [TOKENS]: makes data/text.txt of so many tokens under the char tokenizer (a token a
character, and one for the end of the text), by default 4,194,305: 16 steps of 262,144 tokens and the
one that the last row predicts. Put your own 51 billion tokens in its place.
Deterministic."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import synthetic


def main():
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 16 * 262_144 + 1
    synthetic.write_text("data/text.txt", synthetic.text(synthetic.dice(1), tokens - 1))
    print(f"data/text.txt: {tokens} tokens")


if __name__ == "__main__":
    main()
