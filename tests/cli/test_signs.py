"""Each sign provoked, at its default threshold, by a real small run that truly has it; and none in healthy
runs. Rules about the machine need a machine in trouble: the runs are slowed or squeezed by the test itself."""

import json
import os
import random
import resource
import signal
import statistics
import subprocess
import time

import numpy as np
import pytest

from conftest import PROGRAM, SHARED_DATA, environment, metrics, train_sft

pytestmark = pytest.mark.skipif(not (SHARED_DATA / "tinyshakespeare.txt").exists(),
                                reason=f"{SHARED_DATA} is not there: no real text to train on")
MODEL = ["--n_layer", 2, "--n_head", 4, "--n_embd", 64, "--block_size", 64, "--batch_size", 16, "--threads", 1,
         "--tokenizer_type", "char", "--eval_interval", 50, "--eval_batches", 20, "--log_interval", 5]
# Two cores shared with other tests: a drop of throughput there is none of the run's making.
MACHINE = {"throughput_dropping", "memory_near_limit"}


def signs(out_dir):
    """Rule → the first sign of it that the trainer wrote."""
    found = {}
    path = out_dir / "metrics.jsonl"
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if not line.endswith("\n"):
            break  # being written
        for sign in json.loads(line).get("signs", []):
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
    shakespeare = (SHARED_DATA / "tinyshakespeare.txt").read_text(encoding="utf-8")
    (path / "verse.txt").write_text(shakespeare, encoding="utf-8")
    (path / "little.txt").write_text(shakespeare[:12000], encoding="utf-8")
    chance = random.Random(2)
    strange = [chr(0x4e00 + i) for i in range(90)] + list("etaoinshrd")
    with open(path / "rubbish.txt", "w", encoding="utf-8") as file:
        for begin in range(0, 400000, 20000):
            file.write(shakespeare[begin:begin + 20000] + "".join(chance.choice(strange) for _ in range(130)))
    (path / "noise.txt").write_text("".join(random.Random(1).choice("abcdefgh") for _ in range(300000)))
    return path


# -- healthy

def test_pretraining_on_verse_is_healthy(folder):
    out, _ = trained(folder, "--data", "verse.txt", "--max_iters", 600, "--learning_rate", 1e-3, name="verse")
    assert warnings(out) == set()
    assert "perplexity_milestone" in signs(out)


def test_a_llama_and_its_sft_are_healthy(folder):
    base = ["--family", "llama", "--tokenizer_type", "bpe", "--vocab_size", 1000, "--block_size", 128, "--batch_size", 8]
    out, _ = trained(folder, "--data", SHARED_DATA / "c4_demo.jsonl", *base, "--max_iters", 500, "--learning_rate", 2e-3, name="llama")
    assert warnings(out) == set()
    train_sft("--pretrained_model", out / "best_model", "--data", SHARED_DATA / "alpaca_en_demo.json", "--block_size", 128,
              "--batch_size", 8, "--max_iters", 300, "--learning_rate", 5e-4, "--eval_interval", 50, "--log_interval", 5, "--threads", 1,
              "--out_dir", "sft", cwd=folder)
    assert warnings(folder / "sft") == set()


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


def test_spikes(folder):
    """A few rows of the corpus are rubbish: letters in no order, nine of ten of which occur nowhere else. In a batch of
    three other rows one of them lifts the loss."""
    out, log = trained(folder, "--data", "rubbish.txt", "--batch_size", 4, "--max_iters", 900, "--learning_rate", 1e-3,
                       "--val_split", 0, name="spikes")
    spikes = [line["spikes"] for line in metrics(out).values()]
    warned = sum("warning" in line and ": spike: loss" in line for line in log.splitlines())
    assert 1 <= spikes[-1] <= 20 and warned == spikes[-1]
    sign = signs(out)["loss_spike"]
    assert "stood far above those before" in sign["evidence"]
    assert f"{metrics(out)[sign['step']]['spikes']} in the run so far" in sign["evidence"]
    # As the sign advises.
    out, log = trained(folder, "--data", "rubbish.txt", "--batch_size", 4, "--max_iters", 900, "--learning_rate", 1e-3,
                       "--val_split", 0, "--skip_spikes", 6, name="skipped")
    assert any(line["skipped"] for line in metrics(out).values()) and "no update" in log


def test_a_run_that_blows_up(folder):
    """Decay by learning_rate × weight_decay = 100 a step: the weights grow until products overflow."""
    log = train_sft(*MODEL, "--data", "verse.txt", "--max_iters", 100, "--learning_rate", 1000, "--warmup_iters", 0,
                    "--out_dir", "blown", cwd=folder, code=6)
    assert "sign non_finite" in log and "training has diverged" in log
    assert "is not finite; the update was left out" in signs(folder / "blown")["non_finite"]["evidence"]


def test_over_fitting_and_the_rising_norm_that_comes_with_it(folder):
    out, _ = trained(folder, "--data", "little.txt", "--val_split", 0.2, "--max_iters", 700, "--learning_rate", 3e-3, name="over")
    found = signs(out)
    losses = {step: line["val_loss"] for step, line in metrics(out).items() if "val_loss" in line}
    sign = found["over_fitting"]
    until = {step: loss for step, loss in losses.items() if step <= sign["step"]}
    assert sign["from_step"] == min(until, key=until.get)
    assert f"the best was step {sign['from_step']}" in sign["evidence"]
    assert "grad_norm_rising" in found


def test_plateau_with_and_without_validation(folder):
    noise = ["--data", "noise.txt", "--max_iters", 800, "--learning_rate", 1e-2, "--lr_schedule", "constant"]
    out, _ = trained(folder, *noise, name="flat")
    assert "plateau" in signs(out) and "training_plateau" not in signs(out)
    out, _ = trained(folder, *noise, "--val_split", 0, name="flat_training")
    assert "training_plateau" in signs(out)


def test_forgetting_of_what_the_base_knew(folder):
    """Verse is learned first, then noise in some of its letters: the validation of what is trained falls, verse rises."""
    short = ["--eval_interval", 10, "--eval_batches", 4, "--learning_rate", 3e-3, "--eval_data", "verse=verse.txt"]
    base, _ = trained(folder, "--data", "verse.txt", *short, "--max_iters", 60, name="knows")
    assert "forgetting" not in signs(base)
    tuned = ["--pretrained_model", "knows/best_model", "--max_iters", 60, *short]
    out, log = trained(folder, "--data", "noise.txt", *tuned, name="forgets")
    known = metrics(base)[60]["eval_losses"]["verse"]
    assert f"verse loss {known:.4f}" in log.split("step 1/60")[0], "what is known is said before the first step"
    sign = signs(out)["forgetting"]
    assert "'verse' rose from" in sign["evidence"] and "while validation fell" in sign["evidence"]
    assert metrics(out)[sign["step"]]["eval_losses"]["verse"] > 1.02 * known
    out, _ = trained(folder, "--data", "noise.txt", "--data", "verse.txt", *tuned, name="remembers")
    assert "forgetting" not in signs(out), "some of the old data mixed in, as the advice says"


def test_data_that_are_waited_for(folder):
    """Rows from all over a file that nobody has read yet, for a model that needs next to no time for them."""
    train_sft("prepare", "--data", "verse.txt", "--tokenizer_type", "char", "--out", "chars", "--cache_dir", "none", cwd=folder)
    ids = np.random.default_rng(1).integers(0, 60, 128 << 20, dtype=np.uint16)
    with open(folder / "unread.bin", "wb") as file:
        file.write(ids.tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    train_sft("--data", "unread.bin", "--tokenizer", "chars", "--n_layer", 1, "--n_head", 1, "--n_embd", 8, "--block_size", 16,
              "--batch_size", 64, "--threads", 1, "--eval_interval", -1, "--log_interval", 1, "--max_iters", 20, "--out_dir", "waits",
              cwd=folder)
    out = folder / "waits"
    (folder / "unread.bin").unlink()
    records = [metrics(out)[step] for step in range(1, 11)]
    assert statistics.median(line["data_wait_ms"] / line["step_ms"] for line in records) > 0.1, "the run has what the sign is of"
    assert signs(out)["data_wait"]["step"] == 10


def test_throughput_that_drops(folder):
    """The process is stopped four fifths of the time once it has shown its speed."""
    metrics_file = folder / "slow" / "metrics.jsonl"
    process = subprocess.Popen(
        [PROGRAM, *map(str, MODEL), "--data", "verse.txt", "--max_iters", "100000", "--eval_interval", "-1", "--log_interval", "60",
         "--save_interval", "1000000", "--out_dir", "slow"], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.time() + 500
        while time.time() < end and (not metrics_file.exists() or metrics_file.read_text().count("\n") < 13):
            time.sleep(0.2)
        while time.time() < end and "throughput_dropping" not in signs(folder / "slow"):
            for _ in range(10):
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(0.4)
                os.kill(process.pid, signal.SIGCONT)
                time.sleep(0.1)
    finally:
        process.kill()
        process.wait(timeout=60)
    assert "throughput_dropping" in signs(folder / "slow")


def test_memory_near_its_limit(folder):
    """The address space of the running process is limited to little more than it has."""
    process = subprocess.Popen(
        [PROGRAM, *map(str, MODEL), "--data", "verse.txt", "--max_iters", "100000", "--eval_interval", "-1", "--log_interval", "5",
         "--save_interval", "1000000", "--out_dir", "tight"], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.time() + 100
        while time.time() < end and not (folder / "tight" / "metrics.jsonl").exists():
            time.sleep(0.2)
        time.sleep(2)
        status = dict(line.split(":", 1) for line in open(f"/proc/{process.pid}/status"))
        limit = int(status["VmSize"].split()[0]) * 1024 + (6 << 20)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        while time.time() < end and "memory_near_limit" not in signs(folder / "tight"):
            time.sleep(0.5)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    finally:
        process.kill()
        process.wait(timeout=60)
    assert "memory_near_limit" in signs(folder / "tight")
