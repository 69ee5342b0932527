"""Tokenising against Hugging Face `tokenizers`, all cores, the same documents, in turns.

    .venv/bin/python bench/tokenizer.py build/bench/tokenizer_bench [--megabytes 50] [--rounds 3]
                                        [--text FOLDER ...] [--tokenizer tokenizer.json ...]

Text: the text files under the folders given (default: this machine's Python packages and system
headers and documentation), no line of 20 characters or more twice. Tokenizers: the files given;
default two trained on a part of it with 32,000 tokens, GPT-2's pattern and Llama 3's, and, against the
sentencepiece package, a unigram model of 8,000. The ids of both programs must be the same (of
sentencepiece nearly as many: its versions round scores differently, and choose among equal ones).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

SUFFIXES = (".py", ".txt", ".md", ".rst", ".h", ".hpp", ".c", ".cpp", ".pyi", ".json", ".jsonl", ".html", ".xml")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")


def gather(folders, megabytes):
    """Documents of at most 32 KB, in a fixed order, without repeated lines."""
    seen, documents, size = set(), [], 0
    for folder in folders:
        for directory, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                if not name.endswith(SUFFIXES):
                    continue
                try:
                    with open(os.path.join(directory, name), encoding="utf-8", newline="") as f:
                        text = f.read(4 << 20)
                except (OSError, UnicodeDecodeError):
                    continue
                kept = []
                for line in text.replace("\0", "").splitlines(keepends=True):
                    if len(line) >= 20:
                        if hash(line) in seen:
                            continue
                        seen.add(hash(line))
                    kept.append(line)
                text = "".join(kept)
                for at in range(0, len(text), 32768):
                    documents.append(text[at:at + 32768])
                    size += len(documents[-1].encode())
                if size > megabytes * 1e6:
                    return documents
    sys.exit(f"only {size / 1e6:.0f} MB of text; give more folders with --text")


def trained(documents, pattern, folder):
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=pattern is not None))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = byte_level if pattern is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=32000, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents[::4], trainer)
    path = os.path.join(folder, "llama3.json" if pattern else "gpt2.json")
    tokenizer.save(path)
    return path


def trained_unigram(documents, folder):
    prefix = os.path.join(folder, "unigram")
    lines = (line[:4000] for document in documents[::16] for line in document.splitlines() if line.strip())
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_prefix=prefix, vocab_size=8000,
                                             model_type="unigram", byte_fallback=True, minloglevel=2)
    return prefix + ".model"


def compare(label, theirs, program, model, documents, path, rounds, ties=False):
    """Rounds in turns; `theirs` gives lists of ids."""
    times, ratios, rates = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        encodings = theirs(documents)
        seconds = time.perf_counter() - start
        ours = json.loads(subprocess.check_output([program, model, path, str(os.cpu_count())]))
        ids = [e.ids if hasattr(e, "ids") else e for e in encodings]
        tokens = sum(map(len, ids))
        same = (ours["tokens"], ours["sum"]) == (tokens, sum(map(sum, ids)))
        same = same or (ties and abs(ours["tokens"] - tokens) < 1e-5 * tokens)
        assert same, (label, "different ids")
        times.append(seconds)
        ratios.append(seconds / ours["seconds"])
        rates.append(ours["bytes"] / ours["seconds"] / 1e6)
    show = lambda v: f"{statistics.median(v):.1f} ({min(v):.1f}–{max(v):.1f})"
    theirs_rate = [ours["bytes"] / t / 1e6 for t in times]
    print(f"{label}: theirs {show(theirs_rate)} MB/s, ours {show(rates)} MB/s, ratio {show(ratios)}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--tokenizer", nargs="*", default=[])
    arguments = parser.parse_args()
    folders = arguments.text or ["/usr/share/doc", sysconfig.get_paths()["purelib"], "/usr/include", "/usr/share/perl",
                                 sysconfig.get_paths()["stdlib"]]
    documents = gather(folders, arguments.megabytes)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "documents")
        with open(path, "w", encoding="utf-8", newline="") as f:
            f.write("".join(document + "\0" for document in documents))
        print(f"{os.path.getsize(path) / 1e6:.1f} MB in {len(documents)} documents, {os.cpu_count()} cores")
        files = arguments.tokenizer or [trained(documents, None, folder), trained(documents, LLAMA3, folder)]
        for file in files:
            fast = tokenizers.Tokenizer.from_file(file)
            fast.encode_special_tokens = True
            encode = lambda texts: fast.encode_batch_fast(texts, add_special_tokens=False)
            compare(os.path.basename(file), encode, arguments.program, file, documents, path, arguments.rounds)
        if not arguments.tokenizer:
            file = trained_unigram(documents, folder)
            model = sentencepiece.SentencePieceProcessor(model_file=file)
            encode = lambda texts: model.encode(texts, num_threads=os.cpu_count())
            compare("sentencepiece unigram", encode, arguments.program, file, documents, path, arguments.rounds, ties=True)


if __name__ == "__main__":
    main()
