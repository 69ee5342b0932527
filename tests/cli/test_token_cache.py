"""Tokens kept between runs, and files of token ids that others made."""

import os
import pathlib
import resource
import time

import numpy as np
import pytest

from conftest import TINY_MODEL, as_json, metrics, train_sft

SMALL = [word for name, value in TINY_MODEL.items() if name != "vocab_size" for word in (f"--{name}", str(value))]
FEW_STEPS = ["--max_iters", "3", "--batch_size", "2", "--eval_interval", "-1", "--log_interval", "1", "--threads", "1"]


@pytest.fixture
def tokenizer(tmp_path, text_file):
    train_sft("prepare", "--data", text_file, "--tokenizer_type", "bpe", "--vocab_size", "400", "--out", "tok",
              "--cache_dir", "none", cwd=tmp_path)
    return "tok"


def cached_files(folder):
    return {path: path.stat().st_ino for path in pathlib.Path(folder).glob("*/data/*")}


def losses(out_dir):
    return [line["loss"] for _, line in sorted(metrics(out_dir).items())]


def test_a_second_run_takes_the_tokens_of_the_first(tmp_path, chat_file, tokenizer):
    common = ["--data", chat_file, "--tokenizer", tokenizer, "--block_size", "64", *SMALL, *FEW_STEPS]
    first = train_sft(*common, "--out_dir", "a", cwd=tmp_path)
    made = cached_files(tmp_path / ".cache/train_sft")
    assert made and "tokens from the cache" not in first
    second = train_sft(*common, "--out_dir", "b", "--packing", "none", cwd=tmp_path)
    assert "tokens from the cache" in second
    assert cached_files(tmp_path / ".cache/train_sft") == made
    train_sft(*common, "--out_dir", "c", "--cache_dir", "none", cwd=tmp_path)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") == losses(tmp_path / "c")


def test_prepare_plan_and_train_share_the_cache(tmp_path, chat_file, tokenizer):
    common = ["--data", chat_file, "--tokenizer", tokenizer, "--block_size", "64", "--packing", "best_fit"]
    prepared = as_json("prepare", *common, cwd=tmp_path)
    made = cached_files(tmp_path / ".cache/train_sft")
    assert list((tmp_path / ".cache/train_sft").glob("*/rows_train_best_fit_64"))
    plan = as_json("plan", *common, *SMALL, *FEW_STEPS, cwd=tmp_path)
    assert plan["rows_per_epoch"] == prepared["train"]["rows"]
    assert plan["tokens_per_epoch"] == prepared["train"]["tokens"]
    train_sft(*common, *SMALL, *FEW_STEPS, cwd=tmp_path)
    assert cached_files(tmp_path / ".cache/train_sft") == made


def test_data_that_changed_are_read_anew(tmp_path, chat_file, tokenizer):
    common = ["prepare", "--data", chat_file, "--tokenizer", tokenizer]
    before = as_json(*common, cwd=tmp_path)
    chat_file.write_text(chat_file.read_text(encoding="utf-8").replace("plus one", "plus two and three"),
                         encoding="utf-8")
    assert as_json(*common, cwd=tmp_path)["train"]["tokens"] > before["train"]["tokens"]
    # Same size, same time, same sampled places: only --verify_data can see it in a large file; in a
    # small one every byte is looked at.
    status = chat_file.stat()
    chat_file.write_text(chat_file.read_text(encoding="utf-8").replace("What", "When"), encoding="utf-8")
    os.utime(chat_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    said = train_sft(*common, cwd=tmp_path)
    assert "tokens from the cache" not in said


def nanogpt_file(path, ids):
    np.array(ids, dtype=np.uint16).tofile(path)


def llm_c_file(path, ids, magic=20240520, version=1, dtype=np.uint16):
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, version, len(ids)
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(np.array(ids, dtype=dtype).tobytes())


def test_token_files_of_nanogpt_and_llm_c_train_like_each_other(tmp_path, tokenizer):
    ids = [int(i) for i in np.random.default_rng(3).integers(50, 300, 4001)]
    nanogpt_file(tmp_path / "nano.bin", ids)
    llm_c_file(tmp_path / "c_1.bin", ids[:1000])
    llm_c_file(tmp_path / "c_2.bin", ids[1000:])
    llm_c_file(tmp_path / "c_3.bin", ids, 20240801, 7, np.uint32)
    np.array(ids, dtype=np.uint32).tofile(tmp_path / "bare32.bin")
    common = ["--tokenizer", tokenizer, "--block_size", "64", *SMALL, *FEW_STEPS]
    outcomes = []
    for i, data in enumerate((["nano.bin"], ["c_1.bin", "c_2.bin"], ["c_3.bin"], ["bare32.bin"])):
        words = [word for name in data for word in ("--data", name)]
        train_sft(*common, *words, "--out_dir", f"out{i}", cwd=tmp_path)
        outcomes.append(losses(tmp_path / f"out{i}"))
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    assert not (tmp_path / ".cache").exists(), "they are read where they lie"


def test_51_billion_tokens_start_in_seconds(tmp_path, tokenizer):
    tokens = 51_000_000_000
    with open(tmp_path / "huge.bin", "wb") as file:
        file.truncate(tokens * 2)
        for place in (0, (1 << 32) * 2 + 4096, tokens * 2 - 4096):
            file.seek(place)
            file.write(np.arange(50, 250, dtype=np.uint16).tobytes())
    if os.stat(tmp_path / "huge.bin").st_blocks > 10000:
        pytest.skip("this file system has no holes")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    begun = time.monotonic()
    train_sft("--data", "huge.bin", "--tokenizer", tokenizer, "--block_size", "1024", *SMALL, *FEW_STEPS,
              "--eval_interval", "3", "--eval_batches", "2", cwd=tmp_path)
    took = time.monotonic() - begun
    peak_kb = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(f"three steps of 51B tokens: {took:.2f} s, {peak_kb / 1e3:.0f} MB at most")
    assert took < 15
    assert peak_kb < 700_000
    plan = as_json("plan", "--data", "huge.bin", "--tokenizer", tokenizer, "--block_size", "1024", "--epochs", "3", *SMALL,
                   "--batch_size", "8", "--grad_accum", "4", cwd=tmp_path)
    assert plan["rows_per_epoch"] == (tokens - tokens // 20 - 1) // 1024


def test_inspect_says_what_a_cache_holds_and_whether_it_is_whole(tmp_path, chat_file, tokenizer):
    prepared = as_json("prepare", "--data", chat_file, "--tokenizer", tokenizer, cwd=tmp_path)
    entry = next((tmp_path / ".cache/train_sft").iterdir())
    said = as_json("inspect", entry, cwd=tmp_path)
    assert said["valid"] and said["train"]["tokens"] == prepared["train"]["tokens"]
    assert "token cache" in train_sft("inspect", entry, cwd=tmp_path)
    tokens = bytearray((entry / "data/train.tokens").read_bytes())
    tokens[len(tokens) // 3] ^= 1
    (entry / "data/train.tokens").write_bytes(tokens)
    assert "train.tokens" in train_sft("inspect", entry, cwd=tmp_path, code=3)
