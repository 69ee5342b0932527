"""Run 5 of the examples."""

import math
import re

import pytest

from conftest import TINY_MODEL, change_json, example, metrics, train_sft
from five_runs import ALMOST, WATCHED, epoch_of_examples, log_of, lr


def test_run_5_train_1k_then_extend(tmp_path):
    folder = example("h100_1k", tmp_path)
    change_json(folder / "train_sft.json", **TINY_MODEL, **WATCHED)
    train_sft("--config", "h100_1k", "--log_interval", "1", cwd=folder)
    out = folder / "checkpoints"
    steps = metrics(out)
    assert max(steps) == 1000
    assert epoch_of_examples(out, 968) == [1] * 968
    assert re.search(r"\b991386 tokens", log_of(out)) and re.search(r"\b153\b", log_of(out))
    assert lr(steps, 1) == pytest.approx(1e-5, **ALMOST)
    assert {lr(steps, s) for s in range(100, 1001)} == {lr(steps, 100)} and lr(steps, 100) == pytest.approx(1e-3, **ALMOST)

    train_sft("--resume", "checkpoints/best_model.pt", "--extend-steps", "10000", cwd=folder)
    steps = metrics(out)
    assert max(steps) == 10_000 and len(steps) == 10_000
    for step in (1001, 5500, 10_000):
        progress = (step - 1001) / 8999
        assert lr(steps, step) == pytest.approx(1e-4 + 0.5 * (1 + math.cos(math.pi * progress)) * 9e-4, rel=1e-6)

    said = train_sft("--config", "h100", "--resume", "checkpoints/best_model.pt", "--max_iters", "150", cwd=folder)
    assert "fresh schedule" in said and "step 0" in said
    fresh = metrics(folder / "checkpoints_restart")
    assert min(fresh) == 1 and max(fresh) == 150 and lr(fresh, 1) == pytest.approx(1e-5, **ALMOST)
    assert fresh[1]["loss"] < steps[1]["loss"] - 0.3, "the weights were not taken over"
