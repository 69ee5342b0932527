#!/usr/bin/env python3
"""Makes data/text.txt for the base phase and data/chat.jsonl, 22,400 conversations of one to three
turns, for the mid and SFT phases. Deterministic."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import synthetic

CONVERSATIONS = 22_400
TEXT_CHARACTERS = 4_000_000


def conversation(rand):
    messages = []
    for _ in range(1 + int(rand() * 3)):
        messages.append({"role": "user", "content": synthetic.text(rand, 20 + int(rand() * 60))})
        messages.append({"role": "assistant", "content": synthetic.text(rand, 20 + int(rand() * 120))})
    return {"messages": messages}


def main():
    rand = synthetic.dice(1)
    synthetic.write_text("data/text.txt", synthetic.text(rand, TEXT_CHARACTERS))
    synthetic.write_jsonl("data/chat.jsonl", (conversation(rand) for _ in range(CONVERSATIONS)))
    print(f"data/text.txt: {TEXT_CHARACTERS} characters; data/chat.jsonl: {CONVERSATIONS} conversations")


if __name__ == "__main__":
    main()
