"""Run 2 of the examples."""

import re

from conftest import TINY_MODEL, change_json, example, metrics, read_jsonl, train_sft
from five_runs import WATCHED, epoch_of_examples, log_of


def test_run_2_short_chat_sft(tmp_path):
    folder = example("chat_sft_8gb", tmp_path)
    for name in ("train_sft.json", "base.json"):
        change_json(folder / name, **TINY_MODEL, **WATCHED)
    train_sft("--config", "base.json", "--max_iters", "5", "--out_dir", "base", cwd=folder)
    start = ["--pretrained_model", "base/latest"]
    train_sft("--device_batch_size=2", "--max_tokens=1024", "--eval_every=-1", "--num_iterations=300", *start, cwd=folder)
    out = folder / "checkpoints_instruct"
    steps = metrics(out)
    assert max(steps) == 300 and steps[300]["examples"] == 9_600
    assert all("val_loss" not in line for line in steps.values())
    lines = read_jsonl(out / "examples.jsonl")
    assert {len(line["examples"]) for line in lines} == {32}
    assert len({e for line in lines for e in line["examples"]}) == 9_600
    assert re.search(r"grad_accum\D+16\b", log_of(out))

    train_sft("--device_batch_size=4", "--target_examples_per_step=64", "--max_tokens=512", "--eval_every=-1",
              "--num_iterations=-1", "--out_dir", "pass", *start, cwd=folder)
    assert epoch_of_examples(folder / "pass", 22_400) == [64] * 350
    assert max(metrics(folder / "pass")) == 350
    assert re.search(r"grad_accum\D+16\b", log_of(folder / "pass"))
