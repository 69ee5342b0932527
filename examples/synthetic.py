"""Text of exact length for the examples' make_data.py scripts. Python's standard library only.

Under the char tokenizer that the examples train, a character is a token, so a text of n characters
is n tokens, and a conversation rendered by the chatml template is CHATML_TOKENS(turns) more than
its contents. That is how the data of an example has exactly the token count of the run it shows.
"""

import json
import os
import random

WORDS = """the a one this that our their old new small large quiet bright early late house river road hill
garden market window letter story answer question number teacher farmer sailor child friend morning evening
winter summer walks runs asks tells finds keeps makes gives takes reads writes opens closes follows near under
over beside with without before after while and but or so then here there always often seldom never""".split()


def chatml_tokens(pairs):
    """Tokens that chatml puts around `pairs` of a user's message and a reply, in characters and specials:
    <|im_start|>user\\n … <|im_end|>\\n<|im_start|>assistant\\n … <|im_end|>, a newline between pairs."""
    return pairs * (1 + 5 + 1 + 1 + 1 + 10 + 1) + (pairs - 1)


def dice(seed):
    """random() is the one generator that Python promises not to change; all choices come from it."""
    return random.Random(seed).random


def text(rand, length):
    """Sentences of exactly `length` characters."""
    parts, size = [], 0
    while size <= length:
        words = [WORDS[int(rand() * len(WORDS))] for _ in range(4 + int(rand() * 8))]
        sentence = " ".join(words).capitalize() + ". "
        parts.append(sentence)
        size += len(sentence)
    cut = "".join(parts)[:length]
    return cut[:-1] + "." if cut.endswith(" ") else cut


def lengths(rand, count, total, low, high):
    """`count` lengths in low…high, varied, that add up to exactly `total`."""
    assert count * low <= total <= count * high, (count, total, low, high)
    mean = total / count
    spread = min(mean - low, high - mean)
    values = [int(mean + (rand() * 2 - 1) * spread) for _ in range(count)]
    rest, i = total - sum(values), 0
    while rest:
        step = 1 if rest > 0 else -1
        if low <= values[i % count] + step <= high:
            values[i % count] += step
            rest -= step
        i += 1
    return values


def write_jsonl(path, records):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def write_text(path, contents):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(contents)
