"""bfloat16 learns what float32 learns: 200 steps on real text, from the same weights and batches.

Compared are the losses of the same steps: a step's difference is |bf16 − fp32| / fp32. All 200 are to stay within 1 %,
and the means over windows of 20 steps, in which what is random in a step's rounding cancels, within 0.3 %.
"""

import statistics

import pytest

from conftest import SHARED_DATA, metrics, train_sft

TEXT = SHARED_DATA / "tinyshakespeare.txt"
STEPS, WINDOW = 200, 20


@pytest.mark.skipif(not TEXT.exists(), reason=f"{TEXT} is not there: no real text to train on")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_200_steps_in_bf16_stay_within_one_percent_of_fp32(tmp_path, family):
    losses = {}
    for precision in ("fp32", "bf16"):
        train_sft("--config", "shakespeare_char", "--data", TEXT, "--family", family, "--block_size", "128",
                  "--batch_size", "6", "--max_iters", STEPS, "--warmup_iters", "20", "--eval_interval", "-1",
                  "--log_interval", "1", "--threads", "1", "--precision", precision, "--out_dir", precision, cwd=tmp_path)
        losses[precision] = [step["loss"] for step in metrics(tmp_path / precision).values()]
        assert len(losses[precision]) == STEPS
    fp32, bf16 = losses["fp32"], losses["bf16"]
    assert fp32 != bf16, "both runs computed in the same precision"
    assert fp32[-1] < 0.75 * fp32[0], "nothing was learned that could differ"
    worst = max(abs(b - a) / a for a, b in zip(fp32, bf16))
    windows = [abs(statistics.mean(bf16[i:i + WINDOW]) / statistics.mean(fp32[i:i + WINDOW]) - 1)
               for i in range(0, STEPS, WINDOW)]
    print(f"{family}: the worst step {100 * worst:.3f} %, the worst window {100 * max(windows):.3f} %")
    assert worst < 0.01
    assert max(windows) < 0.003
