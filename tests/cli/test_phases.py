"""fast_train.sh and resume.sh as a person calls them, killed in each phase and continued."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import PROGRAM, ROOT, TINY_MODEL, environment, metrics, run, write_jsonl

FAST_TRAIN, RESUME = ROOT / "scripts" / "fast_train.sh", ROOT / "scripts" / "resume.sh"
SFT = ["--device_batch_size=2", "--max_tokens=64", "--eval_every=-1", "--num_iterations=400"]
PHASES = ("base", "mid", "sft")


def make_folder(folder):
    folder.mkdir()
    words = "time and tide wait for no one said the old sailor to the young one".split()
    text = " ".join(words[(i * i + 3 * i) % len(words)] for i in range(20000))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    write_jsonl(folder / "chat.jsonl", [
        {"messages": [{"role": "user", "content": f"say {words[i % len(words)]} {i}"},
                      {"role": "assistant", "content": words[i % len(words)]}]} for i in range(1000)])
    common = {"log_interval": 1, "save_interval": 25, "batch_size": 4, "block_size": 64, "val_split": 0, "eval_interval": -1}
    for name, more in (("train_sft", {"data": ["chat.jsonl"], "target_examples_per_step": 8, **TINY_MODEL, **common}),
                       ("base", {"data": ["text.txt"], "data_format": "text", "tokenizer_type": "char", "max_iters": 500}),
                       ("mid", {"data": ["chat.jsonl"], "train_on": "all", "packing": "best_fit", "max_iters": 400})):
        (folder / f"{name}.json").write_text(json.dumps(more), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("phases") / "whole")
    run(FAST_TRAIN, *SFT, cwd=folder)
    return folder


def kill_in(phase, script, folder, how, steps=60, send=os.killpg):
    """Starts the script and sends `how` to it (all its processes) once `phase` has logged some steps. Its exit code."""
    said = folder / "said.txt"
    with said.open("w") as output:
        process = subprocess.Popen([script, *SFT], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    log = folder / "checkpoints" / phase / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= steps:
            break
        time.sleep(0.002)
    assert process.poll() is None, f"ended before it could be killed in {phase}:\n{said.read_text()[-3000:]}"
    send(process.pid, how)
    return process.wait(timeout=60)


def weights(folder, phase):
    return (folder / "checkpoints" / phase / "latest" / "model.safetensors").read_bytes()


def test_all_three_phases_run_each_from_the_one_before(uninterrupted):
    for phase, steps in zip(PHASES, (500, 400, 400)):
        assert max(metrics(uninterrupted / "checkpoints" / phase)) == steps
    first = {phase: metrics(uninterrupted / "checkpoints" / phase)[1]["loss"] for phase in PHASES}
    assert first["mid"] < first["base"] - 0.5, "mid did not start from base"


def test_killed_in_each_phase_and_continued_equals_the_uninterrupted_run(uninterrupted, tmp_path):
    folder = make_folder(tmp_path / "cut")
    kill_in("base", FAST_TRAIN, folder, signal.SIGKILL)
    kill_in("mid", RESUME, folder, signal.SIGKILL)
    kill_in("sft", RESUME, folder, signal.SIGKILL)
    said = run(RESUME, *SFT, cwd=folder)
    assert "base: finished before" in said and "mid: finished before" in said
    for phase in PHASES:
        whole, cut = (metrics(f / "checkpoints" / phase) for f in (uninterrupted, folder))
        assert [(s, whole[s]["loss"]) for s in whole] == [(s, cut[s]["loss"]) for s in cut], phase
        assert weights(uninterrupted, phase) == weights(folder, phase), phase


def test_terminated_saves_first_and_goes_on(uninterrupted, tmp_path):
    folder = make_folder(tmp_path / "stopped")
    assert kill_in("base", FAST_TRAIN, folder, signal.SIGTERM) == 143
    saved = max(metrics(folder / "checkpoints" / "base"))
    assert (folder / "checkpoints" / "base" / f"step_{saved:08d}").is_dir(), "stopping did not save where it stood"
    run(RESUME, *SFT, cwd=folder)
    assert weights(uninterrupted, "sft") == weights(folder, "sft")


def test_terminating_the_script_alone_stops_its_phase_too(uninterrupted, tmp_path):
    folder = make_folder(tmp_path / "script")
    assert kill_in("mid", FAST_TRAIN, folder, signal.SIGTERM, send=os.kill) == 143
    run(RESUME, *SFT, cwd=folder)
    assert weights(uninterrupted, "sft") == weights(folder, "sft")


def test_resume_of_a_finished_run_does_nothing(uninterrupted):
    before = weights(uninterrupted, "sft")
    started = time.monotonic()
    said = run(RESUME, *SFT, cwd=uninterrupted)
    assert all(f"{phase}: finished before" in said for phase in PHASES)
    assert time.monotonic() - started < 2
    assert weights(uninterrupted, "sft") == before


def test_fast_train_does_not_touch_an_earlier_run(uninterrupted):
    said = run(FAST_TRAIN, *SFT, cwd=uninterrupted, code=2)
    assert "resume.sh" in said


def test_a_failing_phase_ends_the_script_with_its_code(tmp_path):
    folder = make_folder(tmp_path / "bad")
    (folder / "chat.jsonl").write_text('{"messages": oops}\n', encoding="utf-8")
    said = run(FAST_TRAIN, *SFT, cwd=folder, code=3)
    assert "the mid phase ended with code 3" in said
    shutil.rmtree(folder / "checkpoints")
    assert "not there" in run(FAST_TRAIN, *SFT, cwd=folder, code=1, TRAIN_SFT=PROGRAM + ".missing")
