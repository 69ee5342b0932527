"""Run 4 of the examples."""

import re
import signal
import subprocess
import time

import pytest

from conftest import ROOT, TINY_MODEL, change_json, environment, example, metrics, train_sft
from five_runs import ALMOST, WATCHED, epoch_of_examples, log_of, lr


def test_run_4_production_on_eight_ranks_simulated_and_shortened(tmp_path):
    folder = example("production_8gpu", tmp_path, 8 * 262_144 + 1)
    change_json(folder / "train_sft.json", **WATCHED)
    tiny = [f"--{name}={value}" for name, value in TINY_MODEL.items()]
    start = [ROOT / "scripts" / "start_training.sh", "--config", "production_8gpu", "--gpus", "8", *tiny,
             "--val_split", "0", "--eval_interval", "-1", "--log_interval", "1"]
    said = folder / "said.txt"
    with said.open("w") as output:
        process = subprocess.Popen(start, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT)
    log = folder / "checkpoints" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= 10:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    assert process.wait(timeout=120) == 143, said.read_text()[-3000:]
    out = folder / "checkpoints"
    steps = metrics(out)
    assert epoch_of_examples(out, 8 * 256) == [256] * 8
    assert steps[1]["tokens"] == 262_144
    for step in (1, 2, 8, 10):
        assert lr(steps, step) == pytest.approx(3e-4 * step / 11_812, **ALMOST)
    assert re.search(r"grad_accum\D+4\b", log_of(out)) and re.search(r"max_iters\D+590625\b", log_of(out))
