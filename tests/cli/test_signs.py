"""Each sign provoked, at its default threshold, by a real small run that truly has it; and none in healthy
runs. Rules about the machine need a machine in trouble: the runs are slowed or squeezed by the test itself."""

import os
import random
import signal
import subprocess
import time

import pytest

from conftest import PROGRAM, environment, metrics, train_sft, write_jsonl

MODEL = ["--n_layer", 2, "--n_head", 4, "--n_embd", 64, "--block_size", 64, "--batch_size", 16, "--threads", 1,
         "--tokenizer_type", "char", "--eval_interval", 50, "--eval_batches", 10, "--log_interval", 5]
# Two cores shared with other tests: a drop of throughput there is none of the run's making.
MACHINE = {"throughput_dropping", "memory_near_limit"}


def verse(words, seed):
    """Text with structure on several levels: a grammar over words, so that there is much to learn."""
    choose = random.Random(seed)
    nouns = "king queen crown sword horse night storm river garden letter soldier servant castle bridge".split()
    verbs = "sees hears leaves finds keeps breaks carries follows forgets remembers".split()
    lines = []
    while sum(map(len, lines)) < words * 6:
        a, b = choose.choice(nouns), choose.choice(nouns)
        lines.append(f"The {a} {choose.choice(verbs)} the {b}, and the {b} {choose.choice(verbs)} no {a}.")
    return "\n".join(lines) + "\n"


def signs(out_dir):
    """Rule → the first sign of it that the trainer wrote."""
    found = {}
    for line in metrics(out_dir).values():
        for sign in line.get("signs", []):
            found.setdefault(sign["rule"], sign)
    return found


def warnings(out_dir):
    return {rule for rule, sign in signs(out_dir).items() if sign["level"] == "warning"} - MACHINE


def trained(folder, *options, name="out"):
    log = train_sft(*MODEL, *options, "--out_dir", name, cwd=folder)
    return folder / name, log


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("signs")
    (path / "verse.txt").write_text(verse(30000, 1))
    (path / "little.txt").write_text("".join(random.Random(2).choice("abcdefgh ") for _ in range(9000)))
    (path / "noise.txt").write_text("".join(random.Random(3).choice("abcdefgh") for _ in range(200000)))
    write_jsonl(path / "chat.jsonl", [{"prompt": f"What follows {i}?", "completion": f"After {i} comes {i + 1}."} for i in range(1500)])
    return path


# -- healthy

def test_pretraining_on_text_is_healthy(folder):
    out, _ = trained(folder, "--data", "verse.txt", "--max_iters", 400, "--learning_rate", 1e-3, name="base")
    assert warnings(out) == set()
    assert "perplexity_milestone" in signs(out)


def test_llama_on_text_is_healthy(folder):
    out, _ = trained(folder, "--data", "verse.txt", "--family", "llama", "--max_iters", 400, "--learning_rate", 2e-3, name="llama")
    assert warnings(out) == set()


def test_sft_is_healthy(folder):
    out, _ = trained(folder, "--data", "chat.jsonl", "--max_iters", 300, "--learning_rate", 1e-3, name="sft")
    assert warnings(out) == set()


# -- provoked

def test_a_rate_that_is_too_high(folder):
    out, log = trained(folder, "--data", "verse.txt", "--max_iters", 100, "--learning_rate", 0.5, name="high")
    assert "sign lr_too_high" in log and "divide learning_rate" in log
    assert signs(out)["lr_too_high"]["step"] <= 100


def test_a_rate_that_is_too_low(folder):
    out, _ = trained(folder, "--data", "verse.txt", "--max_iters", 400, "--learning_rate", 3e-6, name="low")
    assert "lr_too_low" in signs(out)


def test_not_learning_and_a_gradient_norm_that_stays_high(folder):
    out, _ = trained(folder, "--data", "verse.txt", "--max_iters", 150, "--learning_rate", 1e-9, name="none")
    assert "not_learning" in signs(out)
    norms = [line["grad_norm"] for line in metrics(out).values()]
    assert ("grad_norm_high" in signs(out)) == (sorted(norms)[len(norms) // 2] > 2)


def test_over_fitting_and_the_rising_norm_that_comes_with_it(folder):
    out, _ = trained(folder, "--data", "little.txt", "--val_split", 0.2, "--max_iters", 900, "--learning_rate", 3e-3, name="over")
    found = signs(out)
    losses = {step: line["val_loss"] for step, line in metrics(out).items() if "val_loss" in line}
    sign = found["over_fitting"]
    until = {step: loss for step, loss in losses.items() if step <= sign["step"]}
    assert sign["from_step"] == min(until, key=until.get)
    assert f"the best was step {sign['from_step']}" in sign["evidence"]
    assert "grad_norm_rising" in found


def test_plateau_with_and_without_validation(folder):
    noise = ["--data", "noise.txt", "--max_iters", 700, "--learning_rate", 1e-2, "--lr_schedule", "constant"]
    out, _ = trained(folder, *noise, name="flat")
    assert "plateau" in signs(out) and "training_plateau" not in signs(out)
    out, _ = trained(folder, *noise, "--val_split", 0, name="flat_training")
    assert "training_plateau" in signs(out)


def test_throughput_that_drops(folder):
    """The process is stopped three quarters of the time after its first seconds."""
    process = subprocess.Popen(
        [PROGRAM, *map(str, MODEL), "--data", "verse.txt", "--max_iters", "100000", "--eval_interval", "-1", "--log_interval", "20",
         "--out_dir", "slow"], cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(12)
        end = time.time() + 100
        while time.time() < end and "throughput_dropping" not in signs(folder / "slow"):
            for _ in range(10):
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(process.pid, signal.SIGCONT)
                time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert "throughput_dropping" in signs(folder / "slow")
