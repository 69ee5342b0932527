"""Run 3 of the examples."""

import re

import pytest

from conftest import TINY_MODEL, change_json, example, metrics, read_jsonl, train_sft
from five_runs import ALMOST, WATCHED, epoch_of_examples, log_of, lr


def test_run_3_instruction_tuning(tmp_path):
    folder = example("instruct_alpaca", tmp_path)
    change_json(folder / "pretrain.json", **TINY_MODEL, total_batch_size=8192, max_iters=10, warmup_iters=2)
    # The alpaca template's preamble is 150 tokens where a token is a character; nothing here hangs on it.
    change_json(folder / "train_sft.json", **WATCHED, chat_template="chatml")
    train_sft("--config", "pretrain.json", cwd=folder)
    train_sft("--pretrained_model", "checkpoints/best_model.pt", "--max_steps", "2300", "--learning_rate", "2e-5",
              "--mini_batch_size", "8", "--total_batch_size", "65536", "--checkpoint_freq", "100", "--eval_freq", "100",
              "--use_tensorboard", cwd=folder)
    out = folder / "checkpoints_instruct"
    steps = metrics(out)
    assert max(steps) == 2300
    assert epoch_of_examples(out, 49_401) == [64] * 771 + [57]
    assert steps[2300]["epoch"] == pytest.approx(2.98, abs=0.005)
    assert re.search(r"training data: 49401 examples", log_of(out)) and re.search(r"validation data: 2601 examples", log_of(out))
    assert re.search(r"grad_accum\D+8\b", log_of(out))
    assert lr(steps, 58) == pytest.approx(2e-5, **ALMOST) and lr(steps, 1) == pytest.approx(2e-5 / 58, **ALMOST)
    assert lr(steps, 2300) == pytest.approx(2e-6, **ALMOST)
    assert [s for s in steps if "val_loss" in steps[s]] == list(range(100, 2301, 100))
    assert {s["step"] for s in read_jsonl(out / "samples.jsonl")} >= {500, 1000, 1500, 2000}
    assert list((folder / "runs_instruct").rglob("events.out.tfevents.*"))
