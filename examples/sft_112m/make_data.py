#!/usr/bin/env python3
"""Makes data/train.jsonl: 75,000 examples that are 12,645,675 tokens under this example's char
tokenizer and the chatml template, and data/val.jsonl: 500 more. Deterministic."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import synthetic

EXAMPLES, TOKENS = 75_000, 12_645_675
VALIDATION = 500


def conversations(rand, examples, tokens):
    around = synthetic.chatml_tokens(1)
    for size in synthetic.lengths(rand, examples, tokens - examples * around, 40, 500):
        question = min(30 + int(rand() * 30), size - 8)
        yield {"prompt": synthetic.text(rand, question), "completion": synthetic.text(rand, size - question)}


def main():
    synthetic.write_jsonl("data/train.jsonl", conversations(synthetic.dice(1), EXAMPLES, TOKENS))
    synthetic.write_jsonl("data/val.jsonl", conversations(synthetic.dice(2), VALIDATION, VALIDATION * 168))
    print(f"data/train.jsonl: {EXAMPLES} examples, {TOKENS} tokens; data/val.jsonl: {VALIDATION} examples")


if __name__ == "__main__":
    main()
