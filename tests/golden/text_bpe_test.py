"""Byte-level BPE gives the ids of Hugging Face `tokenizers` on fuzzed text of many scripts.

    python text_bpe_test.py TEXT_TOOL [SHARED_DATA_FOLDER] [--characters N] [--seed N]

Unlike vocabularies: SmolLM2's own where its model file is; and trained here with `tokenizers` itself: GPT-2's pattern; SmolLM's (single digits,
then GPT-2's); Llama 3's (Split, ignore_merges); Qwen2's (Split, NFC); and a pattern that goes
through PCRE2 (GPT-4o's). Each is compared as loaded and as saved by us, with special names as text
(encode_special_tokens) and parsed; decode must give the text back.
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
# GPT-4o's, which nothing of ours knows by heart.
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SCRIPTS = [(0x20, 0x7F), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x52F), (0x531, 0x58F), (0x590, 0x6FF),
           (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE00, 0xE7F), (0x1000, 0x109F), (0x10A0, 0x10FF),
           (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2070, 0x218F), (0x2600, 0x27BF),
           (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE00, 0xFE0F),
           (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF)]
FRAGMENTS = ["don't", "I'LL", "'s", "'S", "'\u017f", "we've", "''", "' s", "1234567", "3.14", "\u00bd\u00b2", "\u0663",
             "e\u0301\u0323", "\u0323\u0301", "A\u030a", "\u1112\u1161\u11ab", "\u212b", "\u0958",
             "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f44d\U0001f3fd",
             "\u180e", "\ufeff", "\ufffd", "\u0120", "\u010a", "\x85", "\u2028", "<tool>", "<|im_end", "|>", "_", "a_b",
             "http://x.y/z?q=1&r=2", "    if x:\n\treturn", "\r\n\r\n", " \n \n", "\n  \n", "\t\t", "\u3000", "\xa0 ",
             "if(a<b){\n", "--", "...\n\n", "!?\r\n", "a" * 80, " " * 70] + SPECIALS


def fuzz(characters, documents, seed):
    """Texts of that many characters together."""
    rng = random.Random(seed)
    texts, total = [], 0
    while total < characters:
        parts = []
        first, last = rng.choice(SCRIPTS)
        for _ in range(rng.randrange(1, 60)):
            kind = rng.random()
            if kind < 0.3:
                parts.append("".join(chr(rng.randint(first, last)) for _ in range(rng.randrange(1, 9))))
            elif kind < 0.5:
                parts.append(rng.choice(FRAGMENTS))
            elif kind < 0.65:
                parts.append(rng.choice(" \n\t\r\x0b\u00a0") * rng.randrange(1, 6))
            elif kind < 0.8:
                document = rng.choice(documents)
                at = rng.randrange(len(document))
                parts.append(document[at:at + rng.randrange(40)])
            elif kind < 0.85:
                first, last = rng.choice(SCRIPTS)
            elif kind < 0.95:
                parts.append(chr(rng.randrange(0x20)))
            else:
                code = rng.randrange(0x110000)
                parts.append("" if 0xD800 <= code < 0xE000 else chr(code))
        text = "".join(c for c in "".join(parts) if not 0xD800 <= ord(c) < 0xE000)
        texts.append(text)
        total += len(text)
    return texts


def vocabulary(name, documents):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    plain_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    pre = {"gpt2": byte_level,
           "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
           "llama3": pre_tokenizers.Sequence([split(LLAMA3), plain_bytes]),
           "qwen2": pre_tokenizers.Sequence([split(QWEN2), plain_bytes]),
           "o200k": pre_tokenizers.Sequence([split(O200K), plain_bytes])}[name]
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    first = SPECIALS if name in ("gpt2", "smollm") else []
    trainer = trainers.BpeTrainer(vocab_size=6000, special_tokens=first, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    if name == "llama3":
        # Words that no merge makes: ignore_merges alone finds them.
        raw = json.loads(tokenizer.to_str())
        for word in ["\u0120zxqv", "qqzz", "\u0120\u0120\u0120\u0120\u0120\u0120\u0120\u0120\u0120"]:
            raw["model"]["vocab"].setdefault(word, len(raw["model"]["vocab"]))
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(raw))
    tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in SPECIALS])
    if name in ("gpt2", "qwen2"):
        tokenizer.add_tokens([AddedToken(" " * n, normalized=False) for n in range(4, 12)])
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("A\u030a!", normalized=True),
                              AddedToken("<pad me>", normalized=False, lstrip=True, rstrip=True)])
    return tokenizer


def smollm2():
    """SmolLM2's own vocabulary, of the model file that scripts/fetch_smollm2.sh fetches; None without it."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.environ.get("TRAIN_SFT_SMOLLM2") or os.path.join(
        root, ".cache", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if not os.path.isfile(path):
        print(f"skipped: SmolLM2's vocabulary ({path} is not there)")
        return None
    import gguf  # only here: the rest runs without it
    fields = gguf.GGUFReader(path).fields
    words, merges, types = (fields["tokenizer.ggml." + name].contents() for name in ("tokens", "merges", "token_type"))
    model = models.BPE({word: i for i, word in enumerate(words)}, [tuple(m.split(" ")) for m in merges])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = int(gguf.TokenType.CONTROL)
    tokenizer.add_special_tokens([AddedToken(w, normalized=False) for w, t in zip(words, types) if t == control])
    return tokenizer


class Checks:
    def __init__(self, tool, shared, characters, seed):
        self.tool, self.characters, self.seed = tool, characters, seed
        self.folder = tempfile.TemporaryDirectory()
        self.documents = self.read_documents(shared)

    def read_documents(self, shared):
        if not shared or not os.path.isdir(shared):
            print("shared data is absent: generated documents stand in for it")
            rng = random.Random(1)
            words = "the cat sees a dog banana garden ete 漢字 été aaaa abab if return { } 12 345 <b> x<y".split()
            return [" ".join(rng.choices(words, k=30)) + "\n\n    " + rng.choice(words) for _ in range(300)]
        with open(os.path.join(shared, "c4_demo.jsonl")) as f:
            documents = [json.loads(line)["text"] for line in f]
        with open(os.path.join(shared, "v1_sft_demo.jsonl")) as f:
            documents += [line for line in f][:300]
        with open(os.path.join(shared, "alpaca_en_demo.json")) as f:
            return documents + [r["instruction"] + "\n" + r["output"] for r in json.load(f)]

    def run(self, command, folder, texts):
        paths = [os.path.join(self.folder.name, name) for name in ("texts.json", "out.json")]
        with open(paths[0], "w") as f:
            json.dump(texts, f)
        subprocess.run([self.tool, command, folder, *paths], check=True)
        with open(paths[1]) as f:
            return json.load(f)

    def compare(self, name, theirs, folder, texts):
        nfc = theirs.normalizer is not None
        lossy = [t.content for t in theirs.get_added_tokens_decoder().values() if t.lstrip or t.rstrip]
        # SmolLM2 has no token for some bytes: `tokenizers` leaves them out, and so do we.
        complete = set(pre_tokenizers.ByteLevel.alphabet()) <= theirs.get_vocab().keys()
        ours = self.run("encode", folder, texts)
        parsed = self.run("parse", folder, texts)
        theirs.encode_special_tokens = True
        as_text = theirs.encode_batch_fast(texts, add_special_tokens=False)
        theirs.encode_special_tokens = False
        as_specials = theirs.encode_batch_fast(texts, add_special_tokens=False)
        for text, (ids, inverse), expected, specials, expected_specials in zip(
                texts, ours, as_text, parsed, as_specials):
            assert ids == expected.ids, (name, text, first_difference(ids, expected.ids, theirs))
            assert specials == expected_specials.ids, (name, text)
            stays = not nfc or unicodedata.normalize("NFC", text) == text
            assert inverse or not complete or not stays or any(l in text for l in lossy), (name, text)
        return sum(len(ids) for ids, _ in ours)

    def same_ids(self, name, tokenizer=None):
        tokenizer = tokenizer or vocabulary(name, self.documents)
        folder = os.path.join(self.folder.name, name)
        os.makedirs(folder)
        tokenizer.save(os.path.join(folder, "tokenizer.json"))
        texts = self.documents + fuzz(self.characters, self.documents, self.seed)
        tokens = self.compare(name, tokenizer, folder, texts)
        subprocess.run([self.tool, "save", folder, folder + "_saved"], check=True)
        saved = tokenizers.Tokenizer.from_file(os.path.join(folder + "_saved", "tokenizer.json"))
        assert saved.get_vocab() == tokenizer.get_vocab(), name
        self.compare(name + " saved by us", saved, folder + "_saved", texts[-len(texts) // 10:])
        characters = sum(map(len, texts))
        return f"{name}: {len(texts)} texts, {characters} characters, {tokens} tokens"

    def every_code_point(self, name):
        """Each code point after a letter, a digit, a space and a sign: every class of every one."""
        tokenizer = vocabulary(name, self.documents[:50])
        folder = os.path.join(self.folder.name, name + "_all")
        os.makedirs(folder)
        tokenizer.save(os.path.join(folder, "tokenizer.json"))
        texts = []
        for first in range(0, 0x110000, 64):
            codes = [c for c in range(first, first + 64) if not 0xD800 <= c < 0xE000]
            texts.append("".join(f"a{chr(c)}b {chr(c)}1{chr(c)}!{chr(c)} ?" for c in codes))
        self.compare(name, tokenizer, folder, texts)
        return f"{name}: every code point in its class"


def first_difference(ours, theirs, tokenizer):
    i = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    show = lambda ids: [tokenizer.id_to_token(t) for t in ids[max(0, i - 3):i + 5]]
    return i, show(ours), show(theirs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("shared", nargs="?")
    parser.add_argument("--characters", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every_code_point", action="store_true")
    arguments = parser.parse_args()
    checks = Checks(arguments.tool, arguments.shared, arguments.characters, arguments.seed)
    for name in ["gpt2", "smollm", "llama3", "qwen2", "o200k"]:
        print(checks.same_ids(name), flush=True)
    real = smollm2()
    if real:
        print(checks.same_ids("SmolLM2's own", real), flush=True)
    if arguments.every_code_point:
        for name in ["smollm", "llama3"]:
            print(checks.every_code_point(name), flush=True)


if __name__ == "__main__":
    main()
