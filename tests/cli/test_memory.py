"""--max_memory, --batch_size auto: what fits is known beforehand, and what is planned is kept to."""

import json
import os
import random
import re
import shutil
import subprocess

import pytest

from conftest import PROGRAM, as_json, environment, metrics, train_sft, write_jsonl

# Activations outweigh everything else: 8 rows take some 400 MB.
MODEL = ["--tokenizer_type", "char", "--family", "gpt2", "--n_layer", "4", "--n_head", "4", "--n_embd", "192",
         "--block_size", "1024", "--max_iters", "4", "--log_interval", "1", "--threads", "1",
         "--save_in_background", "false"]
TEXT = ["--data", "text.txt", "--val_split", "0", *MODEL]
LIMIT = 300_000_000


def write_text(path, characters=70_000):
    random.seed(3)
    words = ["".join(random.choices("abcdefgh", k=random.randint(1, 7))) for _ in range(200)]
    text = ""
    while len(text) < characters:
        text += random.choice(words) + " "
    path.write_text(text, encoding="utf-8")


def train_and_measure(*arguments, cwd):
    """What it said, and the most memory it had at once."""
    process = subprocess.Popen([PROGRAM, *arguments], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    return said, usage.ru_maxrss * 1024


def losses(out_dir):
    return [step["loss"] for step in metrics(out_dir).values()]


def saved_state(checkpoint):
    return json.loads((checkpoint / "train_state.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlimited")
    write_text(folder / "text.txt")
    _, peak = train_and_measure(*TEXT, "--batch_size", "8", "--out_dir", "run", cwd=folder)
    assert peak > 1.3 * LIMIT, "the limit would limit nothing"
    return folder


def test_what_does_not_fit_says_what_would(unlimited, tmp_path):
    shutil.copy(unlimited / "text.txt", tmp_path)
    options = [*TEXT, "--max_memory", "300MB"]
    said = train_sft(*options, "--batch_size", "8", cwd=tmp_path, code=5)
    found = re.search(r"with batch_size (\d+) it fits .*; with recompute block, batch_size (\d+); or raise max_memory",
                      said)
    assert found and "max_memory: batch_size 8" in said, said
    rows, rows_again = int(found[1]), int(found[2])
    assert 1 <= rows < rows_again <= 8
    for count, kind in ((rows, "none"), (rows_again, "block")):
        _, peak = train_and_measure(*options, "--batch_size", str(count), "--recompute", kind, "--out_dir", kind,
                                    cwd=tmp_path)
        assert peak < LIMIT
    assert "raise max_memory" in train_sft(*options, "--batch_size", str(rows + 1), cwd=tmp_path, code=5)


def test_auto_keeps_steps_and_limit(unlimited, tmp_path):
    shutil.copy(unlimited / "text.txt", tmp_path)
    options = [*TEXT, "--batch_size", "auto"]
    said, peak = train_and_measure(*options, "--max_memory", "300MB", "--out_dir", "run", cwd=tmp_path)
    assert peak < LIMIT
    rows = saved_state(tmp_path / "run" / "latest")["micro_rows"]
    assert 1 <= rows < 8 and f"8 rows are computed {rows} at a time" in said
    assert losses(tmp_path / "run") == pytest.approx(losses(unlimited / "run"), rel=1e-5)
    # Room for all: a step at once, and the very same numbers.
    train_sft(*options, "--out_dir", "wide", cwd=tmp_path)
    assert saved_state(tmp_path / "wide" / "latest")["micro_rows"] == 8
    assert losses(tmp_path / "wide") == losses(unlimited / "run")


def test_auto_takes_the_size_of_a_step_from_what_is_given(tmp_path):
    write_text(tmp_path / "text.txt", 40_000)
    options = [*TEXT, "--max_iters", "1", "--batch_size", "auto", "--max_memory", "300MB"]
    for name, more, rows in (("examples", ["--target_examples_per_step", "7"], 7),
                             ("tokens", ["--total_batch_size", "5120"], 5), ("accum", ["--grad_accum", "2"], 16)):
        train_sft(*options, *more, "--out_dir", name, cwd=tmp_path)
        state = saved_state(tmp_path / name / "latest")
        assert state["rows_per_step"] == rows and state["micro_rows"] < rows
    assert "not a multiple" in train_sft(*options, "--total_batch_size", "5000", cwd=tmp_path, code=2)
    assert "grad_accum" in train_sft(*options, "--total_batch_size", "5120", "--grad_accum", "2", cwd=tmp_path, code=2)


def test_a_resumed_run_keeps_its_micro_batches(tmp_path):
    write_text(tmp_path / "text.txt", 40_000)
    train_sft(*TEXT, "--batch_size", "auto", "--max_memory", "300MB", "--save_interval", "2",
              "--keep", "0", "--out_dir", "whole", cwd=tmp_path)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    shutil.rmtree(tmp_path / "cut" / "step_00000004")
    train_sft("--data", "text.txt", "--resume", "auto", "--out_dir", "cut", "--threads", "1", cwd=tmp_path)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ends = [tmp_path / name / "step_00000004" for name in ("whole", "cut")]
    assert saved_state(ends[0])["micro_rows"] == saved_state(ends[1])["micro_rows"] < 8
    assert (ends[0] / "model.safetensors").read_bytes() == (ends[1] / "model.safetensors").read_bytes()
    # Less memory than then: other pieces, the same steps.
    shutil.rmtree(ends[1])
    said = train_sft("--data", "text.txt", "--resume", "auto", "--out_dir", "cut", "--threads", "1", "--max_memory",
                     "250MB", cwd=tmp_path)
    assert "do not fit" in said
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def test_rows_of_varying_lengths(tmp_path):
    # One example a row, mostly short: full rows would not fit, the rows there are do.
    random.seed(4)

    def example(words):
        return {"instruction": "say", "output": " ".join(random.choices(["ab", "cde", "fg"], k=words))}

    write_jsonl(tmp_path / "data.jsonl", [example(random.randint(10, 30)) for _ in range(64)])
    write_jsonl(tmp_path / "long.jsonl", [example(350) for _ in range(16)])
    options = ["--data", "data.jsonl", *MODEL, "--val_data", "long.jsonl", "--eval_interval", "2", "--batch_size", "8",
               "--recompute", "block"]
    train_sft(*options, "--out_dir", "wide", cwd=tmp_path)
    _, peak = train_and_measure(*options, "--max_memory", "200MB", "--out_dir", "narrow", cwd=tmp_path)
    assert peak < 200_000_000
    assert losses(tmp_path / "narrow") == losses(tmp_path / "wide")
    val = [[step["val_loss"] for step in metrics(tmp_path / name).values() if "val_loss" in step]
           for name in ("wide", "narrow")]
    assert val[0] == pytest.approx(val[1], rel=1e-5) and len(val[0]) == 2


def test_gradients_take_the_place_of_activations(tmp_path):
    # 22M parameters, 28 MB of gradients a layer. When a step is one micro-batch, the arena makes room for those of all
    # layers but the topmost, before whose backward nothing here is finished. The plan knows, either way.
    write_text(tmp_path / "text.txt", 40_000)
    options = ["--data", "text.txt", "--val_split", "0", "--tokenizer_type", "char", "--n_layer", "3", "--n_head", "12",
               "--n_embd", "768", "--block_size", "512", "--max_iters", "2", "--log_interval", "1", "--threads", "1",
               "--save_in_background", "false"]
    peaks, planned = {}, {}
    for name, more in (("one", ["--batch_size", "4"]), ("two", ["--batch_size", "4", "--grad_accum", "2"])):
        planned[name] = as_json("plan", *options, *more, "--probe_steps", "0", cwd=tmp_path)["memory_bytes"]["total"]
        _, peaks[name] = train_and_measure(*options, *more, "--out_dir", name, cwd=tmp_path)
        assert planned[name] == pytest.approx(peaks[name], rel=0.05)
    assert planned["two"] - planned["one"] == pytest.approx(2 * 28.3e6, rel=0.05)
    assert peaks["two"] - peaks["one"] > 50_000_000


def test_memory_is_flat_over_1000_steps(tmp_path):
    # Rows of all lengths, evaluations, samples and saves between; tests/fault/slopes.py does 10,000 steps.
    random.seed(5)
    write_jsonl(tmp_path / "data.jsonl", [
        {"instruction": "say", "output": " ".join(random.choices(["ab", "cde", "fg"], k=random.randint(1, 60)))}
        for _ in range(400)])
    train_sft("--data", "data.jsonl", "--tokenizer_type", "char", "--n_layer", "2", "--n_head", "2", "--n_embd", "32",
              "--block_size", "256", "--batch_size", "4", "--max_iters", "1000", "--eval_interval", "50", "--save_interval",
              "50", "--sample_interval", "50", "--keep", "2", "--log_interval", "10", "--threads", "1", "--out_dir", "run",
              cwd=tmp_path)
    resident = {step: line["memory_bytes"] for step, line in metrics(tmp_path / "run").items()}
    print("resident memory, MB:", ", ".join(f"{resident[step] / 1e6:.2f} at step {step:,}" for step in (100, 200, 1000)))
    # An allocator's pools fill in the first evaluations and saves: 1.0 MB after step 100, 0.2 MB after step 200.
    assert resident[1000] - resident[100] < 2_000_000
    assert resident[1000] - resident[200] < 700_000


def test_plan_knows_the_limit(unlimited):
    def plan(*arguments):
        return as_json("plan", *TEXT, "--probe_steps", "0", "--max_memory", "300MB", *arguments, cwd=unlimited)

    eight, auto = plan("--batch_size", "8"), plan("--batch_size", "auto")
    assert eight["max_memory_bytes"] == LIMIT < eight["memory_bytes"]["total"]
    warning = next(w for w in eight["warnings"] if w["id"] == "memory")
    assert f"--batch_size {eight['largest_batch_size']}" in warning["text"]
    assert auto["memory_bytes"]["total"] < LIMIT and not any(w["id"] == "memory" for w in auto["warnings"])
    assert auto["examples_per_step"] == 8 and auto["micro_batch_rows"] < 8


@pytest.mark.parametrize("arguments, words", [
    (["--max_memory", "8XB"], ["max_memory", "8XB", "8GB", "90%"]),
    (["--max_memory", "0%"], ["max_memory", "0%"]),
    (["--max_memory", "101%"], ["max_memory", "101%"]),
    (["--max_memory", "-1GB"], ["max_memory"]),
    (["--max_memory", "8"], ["max_memory", "unit"]),
    (["--batch_size", "many"], ["batch_size", "a whole number", "auto"]),
    (["--recompute", "all"], ["recompute", "none", "attention", "block"]),
])
def test_bad_values(tmp_path, arguments, words):
    (tmp_path / "text.txt").write_text("words " * 100, encoding="utf-8")
    said = train_sft("--data", "text.txt", *arguments, cwd=tmp_path, code=2)
    assert all(word in said for word in words), said


def test_no_room_at_all(tmp_path):
    (tmp_path / "text.txt").write_text("words " * 1000, encoding="utf-8")
    said = train_sft(*TEXT, "--max_memory", "20MB", "--batch_size", "auto", cwd=tmp_path, code=5)
    assert "one row" in said and "raise max_memory" in said
