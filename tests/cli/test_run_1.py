"""Run 1 of the examples."""

import math
import re

import pytest

from conftest import TINY_MODEL, change_json, example, metrics, train_sft
from five_runs import ALMOST, WATCHED, epoch_of_examples, log_of, lr


def test_run_1_full_epoch_sft_of_a_112m_model(tmp_path):
    folder = example("sft_112m", tmp_path)
    change_json(folder / "train_sft.json", **TINY_MODEL, **WATCHED)
    train_sft("--batch_size", "8", "--grad_accum", "1", "--max_iters", "800", "--eval_interval", "50",
              "--learning_rate", "7e-5", cwd=folder)
    out = folder / "checkpoints"
    steps = metrics(out)
    assert max(steps) == 800
    assert re.search(r"\b75000 examples", log_of(out)) and re.search(r"\b12645675 tokens", log_of(out))
    per_epoch = len(epoch_of_examples(out, 75_000))
    # 771.83 steps at 100 % fill; whole examples cannot fill every row to the last token.
    assert 772 <= per_epoch <= 775, per_epoch
    assert steps[per_epoch]["examples"] == 75_000
    assert lr(steps, 1) == pytest.approx(7e-5 / 20, **ALMOST)
    assert lr(steps, 20) == lr(steps, 21) == lr(steps, 420) == pytest.approx(7e-5, **ALMOST)
    assert lr(steps, 421) == pytest.approx(7e-5, **ALMOST) and 1e-5 < lr(steps, 422) < 7e-5
    assert lr(steps, 610) == pytest.approx(1e-5 + 6e-5 * 0.5 * (1 + math.cos(math.pi * 189 / 379)), **ALMOST)
    assert lr(steps, 800) == pytest.approx(1e-5, **ALMOST)
    assert [s for s in steps if "val_loss" in steps[s]] == list(range(50, 801, 50))
