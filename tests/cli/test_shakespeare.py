"""Against PyTorch eager, from the same initial weights and batches: the first 50 losses and gradient
norms of --config shakespeare_char agree to 1e-4 in fp32."""

import os
import sys

import pytest

from conftest import ROOT, SHARED_DATA, metrics, read_jsonl, run, train_sft

sys.path.insert(0, str(ROOT / "examples"))
import synthetic

STEPS = 50


@pytest.fixture
def text(tmp_path):
    if (SHARED_DATA / "tinyshakespeare.txt").exists():
        return SHARED_DATA / "tinyshakespeare.txt"
    synthetic.write_text(str(tmp_path / "text.txt"), synthetic.text(synthetic.dice(1), 300_000))
    return tmp_path / "text.txt"


def test_first_50_losses_and_gradient_norms_equal_pytorch(tmp_path, text):
    length = ["--max_iters", "100", "--warmup_iters", "60"]
    train_sft("--config", "shakespeare_char", "--data", text, "--precision", "fp32", "--eval_interval", "-1",
              "--log_interval", "1", "--out_dir", "ours", *length, cwd=tmp_path)
    run(os.environ["TRAIN_SFT_DUMP_START"], "ours", STEPS, "start", cwd=tmp_path)
    run(sys.executable, ROOT / "bench" / "shakespeare_torch.py", "--init", "start/latest", "--batches",
        "start/batches.jsonl", "--steps", STEPS, "--out", "theirs.jsonl", *length, cwd=tmp_path)
    ours, theirs = metrics(tmp_path / "ours"), read_jsonl(tmp_path / "theirs.jsonl")
    assert len(theirs) == STEPS
    for expected in theirs:
        step = expected["step"]
        for key in ("lr", "loss", "grad_norm"):
            assert ours[step][key] == pytest.approx(expected[key], rel=1e-4), f"{key} at step {step}"
