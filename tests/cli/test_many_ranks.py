"""Many processes train as one: the same steps, whatever their number, and a resume by any other number."""

import pathlib
import signal

import pytest

from conftest import metrics, read_jsonl, write_jsonl
from ranks import Processes, assert_same_steps, stopped_at_counts, train, wait_for_step, write_words

MODEL = ("--n_layer", 2, "--n_head", 2, "--n_embd", 16, "--tokenizer_type", "char", "--threads", 1)
STEPS = ("--max_iters", 50, "--eval_interval", 10, "--log_interval", 1, "--learning_rate", "1e-3", "--log_examples")

# 95 training rows or so: with 8 rows a step the last one of an epoch has rows for some ranks only.
CASES = {
    "one_a_row": ("chat", ("--block_size", 64, "--batch_size", 2, "--grad_accum", 1)),
    "packed": ("chat", ("--block_size", 128, "--packing", "best_fit", "--batch_size", 1, "--grad_accum", 1)),
    "accumulation": ("chat", ("--block_size", 64, "--batch_size", 1, "--grad_accum", 3)),
    "text": ("text", ("--block_size", 32, "--batch_size", 1, "--grad_accum", 2)),
    "dropout": ("chat", ("--block_size", 64, "--batch_size", 2, "--dropout", 0.1)),
    "recompute": ("text", ("--block_size", 32, "--batch_size", 2, "--recompute", "block", "--dropout", 0.1)),
    "lora": ("lora", ("--block_size", 64, "--batch_size", 2)),
}


@pytest.fixture
def data(tmp_path):
    write_words(tmp_path / "text.txt", 120)
    write_jsonl(tmp_path / "chat.jsonl",
                [{"prompt": f"say {i}", "completion": "abcdefghijklmnopqrstuvwxyz"[i % 26] * (1 + i * i % 13)}
                 for i in range(101)])
    return tmp_path


def arguments(kind, own, out_dir, *more):
    source = "text.txt" if kind == "text" else "chat.jsonl"
    return ("--data", source, *MODEL, *STEPS, *own, "--out_dir", out_dir, *more)


@pytest.mark.parametrize("case", CASES)
def test_two_and_four_processes_give_the_losses_of_one(data, case):
    kind, own = CASES[case]
    if kind == "lora":
        train(1, "--data", "chat.jsonl", *MODEL, "--block_size", 64, "--max_iters", 2, "--out_dir", "base", cwd=data)
        own = (*own, "--pretrained_model", "base/latest", "--lora_rank", 2)
        model, rest = ("--threads", 1), own
    else:
        model, rest = MODEL, own
    source = "text.txt" if kind == "text" else "chat.jsonl"
    common = ("--data", source, *model, *STEPS, *rest, "--gpus", 4)
    train(1, *common, "--out_dir", "one", cwd=data)
    expected = metrics(data / "one")
    assert len(expected) == 50
    shares = {record["examples"] - before["examples"] for before, record in zip(expected.values(), list(expected.values())[1:])}
    assert kind == "text" or case == "packed" or len(shares) > 1, "no step is short: the tail is not tested"
    for count in (2, 4):
        said = train(count, *common, "--out_dir", f"many{count}", cwd=data)
        assert_same_steps(expected, metrics(data / f"many{count}"), 1e-5)
        assert read_jsonl(data / "one" / "examples.jsonl") == read_jsonl(data / f"many{count}" / "examples.jsonl")
        assert "processes share each step" in said[0]
        assert all(said[rank] == "" for rank in range(1, count)), "only the first has something to say"


@pytest.mark.parametrize("shard", ("none", "optimizer"))
def test_gradients_sent_in_bfloat16_give_the_losses_of_one_process(data, shard):
    common = ("--data", "chat.jsonl", *MODEL, *STEPS, "--block_size", 64, "--batch_size", 2, "--grad_accum", 2, "--gpus", 4)
    train(1, *common, "--out_dir", "one", cwd=data)
    expected = metrics(data / "one")
    for count in (2, 4):
        sent = (*common, "--reduce_dtype", "bf16", "--shard", shard)
        train(count, *sent, "--out_dir", f"many{count}", cwd=data)
        got = metrics(data / f"many{count}")
        assert_same_steps(expected, got, 1e-3, grad_norm=1e-2)
        assert any(expected[step]["loss"] != got[step]["loss"] for step in expected), "nothing was rounded"


def test_gpus_is_the_number_of_processes_where_it_is_not_given(data):
    own = ("--block_size", 64, "--batch_size", 2)
    train(1, *arguments("chat", own, "one", "--gpus", 2), cwd=data)
    train(2, *arguments("chat", own, "two"), cwd=data)
    assert_same_steps(metrics(data / "one"), metrics(data / "two"), 1e-5)


def content(path):
    return pathlib.Path(path).read_bytes()


def test_a_stop_of_one_rank_stops_all_and_a_resume_is_bit_for_bit(data):
    own = ("--block_size", 64, "--batch_size", 2, "--dropout", 0.1)
    train(2, *arguments("chat", own, "whole"), cwd=data)
    processes = Processes(2, *arguments("chat", own, "cut"), cwd=data)
    try:
        wait_for_step(data / "cut", 17, processes)
        processes.signal(1, signal.SIGTERM)
        ended = processes.end()
    finally:
        processes.kill_all()
    assert {code for code, _ in ended.values()} == {143}, ended
    assert max(metrics(data / "cut")) < 50
    train(2, "--resume", "auto", "--out_dir", "cut", cwd=data)
    assert_same_steps(metrics(data / "whole"), metrics(data / "cut"), 0)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert content(data / "whole" / "latest" / name) == content(data / "cut" / "latest" / name), name


def test_a_run_goes_on_with_fewer_and_more_processes(data):
    own = ("--block_size", 64, "--batch_size", 2, "--save_interval", 5)
    train(1, *arguments("chat", own, "whole", "--gpus", 4), cwd=data)
    first = arguments("chat", own, "cut")
    train(4, *stopped_at_counts(data, "cut", first, ((4, 8), (2, 20), (1, 30))), cwd=data)
    assert_same_steps(metrics(data / "whole"), metrics(data / "cut"), 1e-5)
    assert read_jsonl(data / "whole" / "examples.jsonl") == read_jsonl(data / "cut" / "examples.jsonl")


def test_sigusr1_to_any_rank_saves(data):
    own = ("--block_size", 64, "--batch_size", 2, "--save_interval", 1000, "--eval_interval", -1)
    processes = Processes(2, *arguments("chat", own, "out", "--max_iters", 2000), cwd=data)
    try:
        wait_for_step(data / "out", 5, processes)
        processes.signal(1, signal.SIGUSR1)
        wait_for_step(data / "out", max(metrics(data / "out")) + 20, processes)
        assert list((data / "out").glob("step_*")), "no checkpoint after SIGUSR1"
        processes.signal(0, signal.SIGINT)
        assert {code for code, _ in processes.end().values()} == {130}
    finally:
        processes.kill_all()


def test_processes_that_cannot_share_a_step_evenly_are_refused(data):
    said = train(2, *arguments("chat", ("--batch_size", 2, "--gpus", 3), "out"), cwd=data, code=2)
    assert "gpus 3 × grad_accum 1 = 3 micro-batches, which 2 processes cannot share evenly; start 1, 3 processes" in said[0]
    assert "rank 0: gpus" in said[1]


def test_a_rank_with_other_data_is_named(data, tmp_path):
    other = data / "other"
    other.mkdir()
    write_jsonl(other / "chat.jsonl", [{"prompt": "a", "completion": "bc" * (1 + i % 3)} for i in range(40)])
    said = train(2, *arguments("chat", ("--batch_size", 2), data / "out"), cwd=data, folders={1: other}, code=2)
    assert "the training data of rank 1 is not that of rank 0" in said[0]


def test_a_rank_with_other_settings_is_named(data):
    said = train(2, *arguments("chat", ("--batch_size", 2), "out"), cwd=data,
                 of_rank={1: ("--weight_decay", 0.2)}, code=2)
    assert "weight_decay: is 0.2 on rank 1 and 0.1 on rank 0" in said[0]


def test_what_fails_on_one_rank_ends_all_with_its_message(data, tmp_path):
    empty = data / "empty"
    empty.mkdir()
    said = train(2, *arguments("chat", ("--batch_size", 2), data / "out"), cwd=data, folders={1: empty}, code=3)
    assert "rank 1: " in said[0] and "chat.jsonl" in said[0]
