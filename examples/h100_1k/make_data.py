#!/usr/bin/env python3
"""Makes data/text.txt: 991,386 tokens under this example's char tokenizer (a token a character, and
one for the end of the text), which are 968 rows of 1,024 and a tail of 153 (the one token between them
is the last row's last target). Deterministic."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import synthetic

TOKENS = 991_386


def main():
    synthetic.write_text("data/text.txt", synthetic.text(synthetic.dice(1), TOKENS - 1))
    print(f"data/text.txt: {TOKENS} tokens")


if __name__ == "__main__":
    main()
