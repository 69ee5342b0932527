"""Several processes as one run: started by --procs, torchrun, mpirun, or with the variables srun sets."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import PROGRAM, ROOT, environment, metrics, train_sft

TORCHRUN = ROOT / ".venv" / "bin" / "torchrun"
SLURM_OF_TWO = {"SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "localhost"}


def settings(text_file, out_dir, **more):
    values = {"data": text_file, "out_dir": out_dir, "tokenizer_type": "char", "n_layer": 2, "n_head": 2, "n_embd": 32,
              "block_size": 32, "batch_size": 2, "grad_accum": 2, "max_iters": 12, "log_interval": 1,
              "eval_interval": 6, "save_interval": 4, "threads": 1, "dist_timeout": 60, **more}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def losses(out_dir):
    return [step["loss"] for _, step in sorted(metrics(out_dir).items())]


def start(words, cwd, **env):
    """stdout and stderr in files: nobody reads a pipe here."""
    said = open(pathlib.Path(cwd) / f"said_{time.monotonic_ns()}", "w+", encoding="utf-8")
    process = subprocess.Popen([str(word) for word in words], cwd=cwd, env=environment(**env),
                               stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
    process.said = said
    return process


def output(process):
    process.said.seek(0)
    return process.said.read()[-6000:]


def ends(process, code, seconds=120):
    process.wait(timeout=seconds)
    assert process.returncode == code, f"exit code {process.returncode}, expected {code}:\n{output(process)}"
    return output(process)


def wait_for(what, condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended before {what}:\n{output(process)}"
        assert time.monotonic() < end, f"no {what} in {seconds} s:\n{output(process)}"
        time.sleep(0.01)


def steps_logged(out_dir):
    try:
        return (pathlib.Path(out_dir) / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
    except FileNotFoundError:
        return 0


def children(process):
    return [int(pid) for pid in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def rank_of(pid):
    variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(v[5:]) for v in variables if v.startswith(b"RANK=")), None)


def gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def alone(text_file, tmp_path):
    """The losses of one process that does the work of two."""
    train_sft(*settings(text_file, "alone", gpus=2), cwd=tmp_path)
    return losses(tmp_path / "alone")


def test_procs_train_as_one(text_file, tmp_path, alone):
    said = subprocess.run([PROGRAM, "--procs", "2", "--json", *settings(text_file, "two")], cwd=tmp_path,
                          env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == 0, said.stderr[-4000:]
    summary = json.loads(said.stdout)  # one object, of rank 0
    assert summary["exit_code"] == 0
    assert losses(tmp_path / "two") == pytest.approx(alone, rel=1e-5)
    assert "[rank 1]" not in said.stderr  # the others are silent as long as all is well
    assert not list(tmp_path.glob("core*"))


def test_a_rank_that_is_killed_is_named_and_the_run_goes_on(text_file, tmp_path):
    options = settings(text_file, "cut", max_iters=4000, eval_interval=-1, save_interval=5)
    run = start([PROGRAM, "--procs", "2", *options], tmp_path)
    wait_for("ten steps", lambda: steps_logged(tmp_path / "cut") >= 10, run)
    ranks = {rank_of(pid): pid for pid in children(run)}
    assert set(ranks) == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    said = ends(run, 128 + signal.SIGKILL)
    assert "rank 1 of 2 was ended by signal 9" in said
    assert all(gone(pid) for pid in ranks.values())
    short = settings(text_file, "cut", max_iters=4000, eval_interval=-1, save_interval=5)
    again = start([PROGRAM, "--procs", "2", "--resume", "auto", *short], tmp_path)
    wait_for("more steps", lambda: steps_logged(tmp_path / "cut") >= 20, again)
    again.send_signal(signal.SIGTERM)
    ends(again, 143)


def test_a_stop_is_a_checkpoint_and_a_resume_the_uncut_run(text_file, tmp_path):
    options = dict(max_iters=300, eval_interval=-1, save_interval=1000)
    train_sft("--procs", "2", *settings(text_file, "uncut", **options), cwd=tmp_path)
    run = start([PROGRAM, "--procs", "2", *settings(text_file, "cut", **options)], tmp_path)
    wait_for("five steps", lambda: steps_logged(tmp_path / "cut") >= 5, run)
    run.send_signal(signal.SIGINT)
    ends(run, 130)
    assert steps_logged(tmp_path / "cut") < 300
    train_sft("--procs", "2", "--resume", "auto", *settings(text_file, "cut", **options), cwd=tmp_path)
    assert losses(tmp_path / "cut") == losses(tmp_path / "uncut")
    weights = [tmp_path / name / "latest" / "model.safetensors" for name in ("cut", "uncut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_nothing_is_left_of_a_killed_launcher(text_file, tmp_path):
    run = start([PROGRAM, "--procs", "2", *settings(text_file, "orphans", max_iters=100000)], tmp_path)
    wait_for("a step", lambda: steps_logged(tmp_path / "orphans") >= 1, run)
    ranks = children(run)
    assert len(ranks) == 2
    run.kill()
    run.wait()
    end = time.monotonic() + 20
    while not all(gone(pid) for pid in ranks):
        assert time.monotonic() < end, "a rank outlived its launcher"
        time.sleep(0.05)


def test_errors_of_settings_are_said_once(text_file, tmp_path):
    said = train_sft("--procs", "2", *settings(text_file, "x", learning_rate=1e-3, min_lr=1), cwd=tmp_path, code=2)
    assert said.count("min_lr") == 1
    for bad in ("0", "1025", "two"):
        assert "procs" in train_sft("--procs", bad, *settings(text_file, "x"), cwd=tmp_path, code=2)


def test_procs_under_a_launcher_is_refused(text_file, tmp_path):
    said = train_sft("--procs", "2", *settings(text_file, "x"), cwd=tmp_path, code=2, SLURM_PROCID=0, SLURM_LOCALID=0,
                     **SLURM_OF_TWO)
    assert "procs: 2 (command line) contradicts SLURM, which has started 2 processes" in said


def test_half_set_variables_are_named(text_file, tmp_path):
    said = train_sft(*settings(text_file, "x"), cwd=tmp_path, code=2, RANK=0, WORLD_SIZE=2)
    assert "environment variable LOCAL_RANK is not set" in said


def test_a_job_that_forgot_srun_is_told(text_file, tmp_path):
    said = train_sft(*settings(text_file, "x", max_iters=1), cwd=tmp_path, SLURM_JOB_ID=1, SLURM_NTASKS=8)
    assert "SLURM_NTASKS=8, but this is the job's own shell" in said


def test_variables_as_srun_sets_them(text_file, tmp_path, alone):
    ranks = [start([PROGRAM, *settings(text_file, "slurm")], tmp_path, SLURM_PROCID=rank, SLURM_LOCALID=rank,
                   **SLURM_OF_TWO) for rank in (0, 1)]
    for rank in ranks:
        ends(rank, 0)
    assert losses(tmp_path / "slurm") == pytest.approx(alone, rel=1e-5)


@pytest.mark.skipif(not TORCHRUN.exists(), reason="no torchrun in .venv")
def test_torchrun(text_file, tmp_path, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = start([TORCHRUN, "--no-python", "--nproc-per-node", "2", "--master-port", port, PROGRAM,
                 *settings(text_file, "torchrun")], tmp_path)
    ends(run, 0)
    assert losses(tmp_path / "torchrun") == pytest.approx(alone, rel=1e-5)


@pytest.mark.skipif(not TORCHRUN.exists(), reason="no torchrun in .venv")
def test_torchrun_starts_a_killed_rank_again_and_the_run_goes_on(text_file, tmp_path):
    options = settings(text_file, "elastic", max_iters=600, eval_interval=-1, save_interval=10)
    run = start([TORCHRUN, "--no-python", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2", PROGRAM,
                 *options], tmp_path)
    wait_for("20 steps", lambda: steps_logged(tmp_path / "elastic") >= 20, run)
    victim = next(pid for pid in children(run) if rank_of(pid) == 1)
    os.kill(victim, signal.SIGKILL)
    said = ends(run, 0, seconds=200)
    assert sorted(metrics(tmp_path / "elastic")) == list(range(1, 601)), said
    train_sft("--procs", "2", *settings(text_file, "uncut", max_iters=600, eval_interval=-1, save_interval=10),
              cwd=tmp_path)
    assert losses(tmp_path / "elastic") == losses(tmp_path / "uncut")


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun (Debian: openmpi-bin)")
def test_mpirun(text_file, tmp_path, alone):
    run = start(["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2", PROGRAM,
                 *settings(text_file, "mpi")], tmp_path)
    ends(run, 0)
    assert losses(tmp_path / "mpi") == pytest.approx(alone, rel=1e-5)


