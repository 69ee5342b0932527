"""SFT on real files, as a person would start it. Skipped, by name, where ../shared/data is not there."""

import re

import pytest

from conftest import SHARED_DATA, metrics, train_sft

SMALL_MODEL = ["--family", "llama", "--n_layer", "2", "--n_head", "2", "--n_embd", "64", "--vocab_size", "2000",
               "--block_size", "512", "--packing", "best_fit", "--batch_size", "4", "--threads", "1"]


def sft(name, folder, *more):
    file = SHARED_DATA / name
    if not file.exists():
        pytest.skip(f"{file} is not there")
    train_sft("--data", file, *SMALL_MODEL, "--learning_rate", "3e-3", "--warmup_iters", "4", "--max_iters", "25",
              "--eval_interval", "25", "--log_interval", "1", "--val_split", "0.1", "--out_dir", "run", *more, cwd=folder)
    log = (folder / "run" / "training.log").read_text(encoding="utf-8")
    steps = metrics(folder / "run")
    first, last = steps[1]["loss"], sum(steps[s]["loss"] for s in range(21, 26)) / 5
    assert last < first - 1, f"the loss went from {first} to {last}"
    assert steps[25]["val_loss"] < first
    return log


def said(log, part, pattern):
    """The numbers in a line of the log about one part of the data."""
    found = re.search(rf"{part} data: {pattern}", log)
    assert found, f"no line '{part} data: {pattern}' in\n{log}"
    return [int(number.replace(",", "")) for number in found.groups()]


@pytest.mark.parametrize("name, form, examples, more", [
    ("alpaca_en_demo.json", "alpaca", 999, []),
    ("identity.json", "alpaca", 91, ["--data_vars", "name=Ada,author=Us"]),
    ("v1_sft_demo.jsonl", "messages", 500, []),
])
def test_sft_learns_and_says_what_it_read(name, form, examples, more, tmp_path):
    log = sft(name, tmp_path, *more)
    number = r"([\d,]+)"
    total = 0
    for part in ("training", "validation"):
        read, tokens, learned = said(log, part, rf"{number} examples \({form}\), {number} tokens, {number} learned")
        total += read
        assert 0 < learned < tokens
        rows, = said(log, part, rf"{number} rows")
        assert rows >= tokens / 512 or "truncated" in log
    assert total == examples


def test_sft_says_what_was_found_twice_and_what_was_dropped_and_why(tmp_path):
    log = sft("alpaca_en_demo.json", tmp_path, "--block_size", "128", "--overlong", "drop")
    duplicates = [int(n) for n in re.findall(r"data: (\d+) duplicates \(kept\)", log)]
    assert sum(duplicates) == 999 - 985
    assert re.search(r"training data: [\d,]+ dropped: \S+", log)
