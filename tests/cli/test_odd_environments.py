"""Machines as they are: other trainers, other users, odd names, no HOME, a wrong clock, pipes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from conftest import PROGRAM, environment, metrics, train_sft

SMALL = ["--tokenizer_type", "char", "--n_layer", 1, "--n_head", 1, "--n_embd", 8, "--block_size", 16,
         "--batch_size", 2, "--threads", 1, "--warmup_iters", 0, "--log_interval", 1]
ENDLESS = [*SMALL, "--max_iters", 1000000, "--eval_interval", -1]
SHORT = [*SMALL, "--max_iters", 6, "--eval_interval", 3]


def start(*arguments, cwd, **more):
    log = tempfile.TemporaryFile("w+", encoding="utf-8")  # a pipe that nobody empties would stop the run
    run = subprocess.Popen([PROGRAM, *map(str, arguments)], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=log,
                           stderr=subprocess.STDOUT, **more)
    run.log = log
    return run


def said_by(run, timeout=60):
    """All it said, once it has ended."""
    run.wait(timeout=timeout)
    run.log.seek(0)
    return run.log.read()


def wait_until(condition, run, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, said_by(run)[-3000:]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def steps(out_dir):
    path = pathlib.Path(out_dir) / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def stopped(run, code=143):
    run.send_signal(signal.SIGTERM)
    said = said_by(run, timeout=30)
    assert run.returncode == code, said[-3000:]
    return said


def test_two_trainers_on_one_directory(tmp_path, text_file):
    first = start("--data", text_file, "--out_dir", "out", *ENDLESS, cwd=tmp_path)
    wait_until(lambda: steps(tmp_path / "out") > 3, first)
    for resume in ([], ["--resume", "auto"]):
        said = train_sft("--data", text_file, "--out_dir", "out", *ENDLESS, *resume, cwd=tmp_path, code=2)
        assert str(first.pid) in said, said
    before = steps(tmp_path / "out")
    wait_until(lambda: steps(tmp_path / "out") > before + 3, first)
    first.send_signal(signal.SIGUSR1)
    wait_until(lambda: os.path.lexists(tmp_path / "out" / "latest"), first)
    first.kill()  # the lock goes with its owner, however it ends
    first.wait()
    second = start("--resume", "auto", "--out_dir", "out", cwd=tmp_path)
    before = steps(tmp_path / "out")
    wait_until(lambda: steps(tmp_path / "out") > before + 3, second)
    stopped(second)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_a_directory_one_may_not_write_to(text_file):
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        shutil.copy(text_file, folder / "text.txt")
        as_nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        if subprocess.run([PROGRAM, "--version"], check=False, **as_nobody).returncode != 0:
            pytest.skip("nobody may not run the program here")
        run = start("--data", "text.txt", "--out_dir", "out", *SHORT, cwd=folder, **as_nobody)
        said = said_by(run)
        assert run.returncode == 5, said
        assert "out" in said and "Permission denied" in said and "--out_dir" in said, said
        # Written by one, read by another: what reads works.
        train_sft("--data", "text.txt", "--out_dir", "out", *SHORT, cwd=folder)
        reader = start("generate", "--checkpoint", "out/latest", "--prompt", "the", "--max_new_tokens", 2, cwd=folder,
                       **as_nobody)
        said = said_by(reader)
        assert reader.returncode == 0, said
    finally:
        shutil.rmtree(folder)


def test_a_directory_deleted_under_the_run(tmp_path, text_file):
    run = start("--data", text_file, "--out_dir", "out", "--save_interval", 5, *ENDLESS, cwd=tmp_path)
    wait_until(lambda: steps(tmp_path / "out") > 20, run)
    for _ in range(100):  # it may be writing just now
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        if not (tmp_path / "out" / "metrics.jsonl").exists():
            break
    wait_until(lambda: os.path.lexists(tmp_path / "out" / "latest"), run)
    stopped(run)
    # What was trained is not lost with the directory.
    state = json.loads((tmp_path / "out" / "latest" / "train_state.json").read_text(encoding="utf-8"))
    assert state["step"] > 20
    before = steps(tmp_path / "out")
    again = start("--resume", "auto", "--out_dir", "out", cwd=tmp_path)
    wait_until(lambda: steps(tmp_path / "out") > before + 3, again)
    stopped(again)


def test_a_clock_that_is_set_back(tmp_path, text_file):
    library = pathlib.Path(PROGRAM).parent / "tests" / "fault" / "libclock_back.so"
    if not library.exists():
        pytest.skip("libclock_back.so is not built")
    train_sft("--data", text_file, "--out_dir", "back", "--use_tensorboard", "--save_interval", 2, *SHORT, cwd=tmp_path,
              LD_PRELOAD=library)
    train_sft("--data", text_file, "--out_dir", "usual", "--save_interval", 2, *SHORT, cwd=tmp_path)
    times = [line[:23] for line in (tmp_path / "back" / "training.log").read_text(encoding="utf-8").splitlines()]
    assert times != sorted(times), "the clock did not go back: the test tests nothing"
    for line in metrics(tmp_path / "back").values():
        assert line["step_ms"] >= 0 and line["tokens_per_s"] >= 0, line
    same = [(tmp_path / name / "latest" / "model.safetensors").read_bytes() for name in ("back", "usual")]
    assert same[0] == same[1]


def test_names_with_spaces_unicode_and_parents(tmp_path, text_file):
    work = tmp_path / "a folder" / "ünï 日本"
    work.mkdir(parents=True)
    shutil.copy(text_file, work / "d ä t a.txt")
    out = "../ünï 日本/../out 'und' \"mehr\""
    train_sft("--data", "d ä t a.txt", "--out_dir", out, "--save_interval", 2, *SHORT, cwd=work)
    train_sft("--resume", "auto", "--out_dir", out, "--extend_steps", 8, cwd=work)
    assert sorted(metrics(work / out)) == list(range(1, 9))
    train_sft("generate", "--checkpoint", out + "/best_model", "--prompt", "the", "--max_new_tokens", 2, cwd=work)
    train_sft("eval", "--checkpoint", out + "/latest", "--data", "d ä t a.txt", cwd=work)


@pytest.mark.parametrize("settings", [{}, {"LC_ALL": "C"}, {"LC_ALL": "xx_YY.nothing", "TZ": "nowhere"}],
                         ids=["empty", "C", "unknown locale"])
def test_without_home_and_with_other_locales(tmp_path, settings):
    (tmp_path / "täxt.txt").write_text("é ü 日本 and plain words in 1,5 lines\n" * 60, encoding="utf-8")
    words = [PROGRAM, "--data", "täxt.txt", "--out_dir", "öut", *map(str, SHORT)]
    run = subprocess.run([os.fsencode(word) for word in words], cwd=tmp_path, env=settings, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    assert run.returncode == 0, run.stdout.decode()
    assert sorted(metrics(tmp_path / "öut")) == list(range(1, 7))
    loss = metrics(tmp_path / "öut")[1]["loss"]
    assert 1 < loss < 10, "numbers are written with points"


def test_files_of_no_bytes(tmp_path, text_file):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for arguments, code in ((["--data", "empty.jsonl"], 3), (["--data", "empty"], 3),
                            (["--data", text_file, "--tokenizer", "empty"], 3),
                            (["--data", text_file, "--config", "./empty"], 2),
                            (["--data", text_file, "--pretrained_model", "empty"], 4)):
        small = SHORT[2:] if "--tokenizer" in arguments else SHORT  # a tokenizer's type is of one trained here
        said = train_sft(*arguments, *small, cwd=tmp_path, code=code)
        assert "empty" in said and "terminate called" not in said, said
    # Of a run: each is detected, or made anew.
    train_sft("--data", text_file, "--out_dir", "out", "--save_interval", 2, *SHORT, cwd=tmp_path)
    for name in ("metrics.jsonl", "training.log", "config.json", ".lock"):
        (tmp_path / "out" / name).write_bytes(b"")
        train_sft("--resume", "auto", "--out_dir", "out", cwd=tmp_path)
    newest = max((tmp_path / "out").glob("step_*"))
    (newest / "train_state.json").write_bytes(b"")
    said = train_sft("--resume", "auto", "--out_dir", "out", cwd=tmp_path)
    assert "train_state.json" in said and "trying the one before" in said, said


def test_a_pipe_as_data(tmp_path, text_file):
    os.mkfifo(tmp_path / "pipe.txt")  # that nobody writes to: opening it would wait for ever
    said = train_sft("--data", "pipe.txt", *SHORT, cwd=tmp_path, code=3, timeout=30)
    assert "pipe.txt" in said and "pipe" in said and "file first" in said, said
    run = subprocess.run(["bash", "-c", f'"$0" --data <(cat "{text_file}") "$@"', PROGRAM, *map(str, SHORT)], cwd=tmp_path,
                         env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, timeout=30, check=False)
    assert run.returncode == 3 and "file first" in run.stdout, run.stdout
