"""A process that dies or hangs: the others end in time and say so, no checkpoint is harmed, and the run goes on."""

import pathlib
import signal
import subprocess
import time

import pytest

import conftest
from conftest import as_json, environment, metrics, train_sft
from ranks import LAUNCHED, Processes, assert_same_steps, train, wait_for_step, write_words

TIMEOUT = 4
SETTINGS = ("--data", "text.txt", "--n_layer", 2, "--n_head", 2, "--n_embd", 16, "--tokenizer_type", "char", "--threads", 1,
            "--block_size", 32, "--batch_size", 2, "--max_iters", 600, "--eval_interval", 50, "--save_interval", 10,
            "--log_interval", 1, "--learning_rate", "1e-3", "--dropout", 0.1, "--dist_timeout", TIMEOUT)
RESUMED = ("--resume", "auto", "--dist_timeout", TIMEOUT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of three processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("run")
    write_words(folder / "text.txt", 120)
    train(3, *SETTINGS, "--out_dir", "whole", cwd=folder)
    return folder


def content(path):
    return pathlib.Path(path).read_bytes()


def assert_goes_on_as_the_whole_run(folder, out_dir):
    train(3, *RESUMED, "--out_dir", out_dir, cwd=folder)
    assert_same_steps(metrics(folder / "whole"), metrics(folder / out_dir), 0)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert content(folder / "whole" / "latest" / name) == content(folder / out_dir / "latest" / name), name


def end_of_others(processes, lost, timeout):
    """({rank: (code, what it said)} of all but the lost one, seconds until they had ended)"""
    begin = time.monotonic()
    ended = processes.end(ranks=[rank for rank in range(3) if rank != lost], timeout=timeout)
    return ended, time.monotonic() - begin


@pytest.mark.parametrize("lost", (0, 1, 2))
@pytest.mark.parametrize("how", ("killed", "hung"))
def test_the_others_end_in_time_and_the_run_goes_on_bit_for_bit(whole, lost, how):
    out_dir = f"{how}{lost}"
    processes = Processes(3, *SETTINGS, "--out_dir", out_dir, cwd=whole)
    try:
        wait_for_step(whole / out_dir, 40 + 37 * lost, processes)
        processes.signal(lost, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        ended, seconds = end_of_others(processes, lost, 60)
    finally:
        processes.kill_all()
    assert seconds < TIMEOUT + 12, f"{seconds:.1f} s"
    for rank, (code, said) in ended.items():
        assert code == 5, f"rank {rank}: {code}\n{said[-3000:]}"
        assert f"rank {rank} of 3: lost the other processes in '" in said, said[-3000:]
    if how == "hung":
        named = "no sign of life from the meeting place" if lost == 0 else f"no sign of life from rank {lost}. "
        assert any(named in said for _, said in ended.values()), "\n".join(said[-1500:] for _, said in ended.values())
    assert max(metrics(whole / out_dir)) < 600
    assert_goes_on_as_the_whole_run(whole, out_dir)


@pytest.mark.parametrize("lost", (0, 1, 2))
def test_killed_while_all_ranks_write_a_checkpoint(whole, lost):
    """Shared optimizer state, saved after every step: most of the time is saving."""
    out_dir = f"saving{lost}"
    settings = (*SETTINGS, "--max_iters", 60, "--eval_interval", -1, "--save_interval", 1, "--shard", "optimizer")
    if not (whole / "saved").exists():
        train(3, *settings, "--out_dir", "saved", cwd=whole)
    for cut in (5, 20, 33):
        resumed = settings if cut == 5 else RESUMED
        processes = Processes(3, *resumed, "--out_dir", out_dir, cwd=whole)
        try:
            wait_for_step(whole / out_dir, cut + lost, processes)
            processes.signal(lost, signal.SIGKILL)
            ended, _ = end_of_others(processes, lost, 60)
        finally:
            processes.kill_all()
        assert {code for code, _ in ended.values()} == {5}, ended
    train(3, *RESUMED, "--out_dir", out_dir, cwd=whole)
    assert_same_steps(metrics(whole / "saved"), metrics(whole / out_dir), 0)
    for name in ("model.safetensors", *(f"optimizer{part}.safetensors" for part in ("", "-00001", "-00002"))):
        assert content(whole / "saved" / "latest" / name) == content(whole / out_dir / "latest" / name), name


def assert_named(ended, lost, call):
    """Every other rank has ended with the code of a lost peer and says who, and in which call."""
    for rank, (code, said) in ended.items():
        assert code == 5, f"rank {rank}: {code}\n{said[-3000:]}"
        assert f"rank {rank} of 3: lost the other processes in '{call}" in said, said[-3000:]
        named = "no sign of life from the meeting place" if lost == 0 else f"no sign of life from rank {lost}. "
        assert named in said, said[-3000:]


@pytest.mark.parametrize("lost", (0, 1, 2))
def test_hung_while_rank_0_tokenises(tmp_path, lost):
    """The others would wait a day for long work, but not for a process that is stopped."""
    with open(tmp_path / "text.txt", "w", encoding="utf-8") as text:
        for i in range(150_000):
            text.write(f"{i * 7919 % 1000003} wizards and {i * 104729 % 999983} foxes\n")
    settings = (*SETTINGS, "--tokenizer_type", "bpe", "--vocab_size", 400, "--cache_dir", "cache", "--out_dir", "out")
    processes = Processes(3, *settings, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not any((tmp_path / "cache").rglob("*part*")):
            assert time.monotonic() < deadline and processes.running[0].poll() is None
            time.sleep(0.001)
        processes.signal(lost, signal.SIGSTOP)
        ended, seconds = end_of_others(processes, lost, 90)
    finally:
        processes.kill_all()
    assert_named(ended, lost, "the data")
    assert seconds < TIMEOUT + 40, f"{seconds:.1f} s"  # of which rank 0 tokenises on


@pytest.mark.parametrize("lost", (0, 1, 2))
def test_hung_while_all_ranks_write_a_checkpoint(whole, lost):
    out_dir = whole / f"hung_saving{lost}"
    settings = (*SETTINGS, "--n_layer", 3, "--n_embd", 256, "--max_iters", 30, "--eval_interval", -1, "--save_interval", 1,
                "--shard", "optimizer", "--out_dir", out_dir)
    processes = Processes(3, *settings, cwd=whole)
    try:
        wait_for_step(out_dir, 2, processes)
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, "never met within a save"
            if not list(out_dir.glob("*saving*")):
                continue
            processes.signal(lost, signal.SIGSTOP)
            time.sleep(0.5)
            if list(out_dir.glob("*saving*")):
                break
            processes.signal(lost, signal.SIGCONT)
        ended, seconds = end_of_others(processes, lost, 60)
    finally:
        processes.kill_all()
    assert_named(ended, lost, "checkpoint: ")
    assert seconds < TIMEOUT + 25, f"{seconds:.1f} s"
    assert not any("could not be saved" in said for _, said in ended.values()), "a lost process is no failed save"
    train(3, *RESUMED, "--out_dir", out_dir, cwd=whole)
    assert max(metrics(out_dir)) == 30


SLOW_SAVE = (*SETTINGS, "--max_iters", 6, "--eval_interval", -1, "--save_interval", 3, "--save_in_background", "false")


@pytest.fixture
def disk(monkeypatch):
    """disk(seconds, name): each file of a checkpoint, or those with the name, takes so long to become durable."""
    library = pathlib.Path(conftest.PROGRAM).parent / "tests" / "fault" / "libslow_sync.so"
    if not library.exists():
        pytest.skip("libslow_sync.so is not built")

    def slow(seconds, name=""):
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("SLOW_SYNC_MS", str(1000 * seconds))
        monkeypatch.setenv("SLOW_SYNC_PATH", name)

    return slow


@pytest.fixture
def slow_disk(disk):
    """A save takes thrice the timeout."""
    disk(1)


def test_a_save_in_the_foreground_longer_than_the_timeout_is_waited_for(whole, slow_disk):
    begin = time.monotonic()
    train(3, *SLOW_SAVE, "--out_dir", "slow", cwd=whole)
    assert time.monotonic() - begin > 4 * TIMEOUT, "no save was slow: nothing is tested"
    assert sorted(path.name for path in (whole / "slow").glob("step_*")) == ["step_00000003", "step_00000006"]


@pytest.mark.parametrize("lost", (0, 1))
def test_hung_while_rank_0_saves_in_the_foreground(whole, slow_disk, lost):
    """The one that saves is waited for, but not when it is stopped; nor is another."""
    out_dir = whole / f"slow_hung{lost}"
    processes = Processes(3, *SLOW_SAVE, "--out_dir", out_dir, cwd=whole)
    try:
        deadline = time.monotonic() + 60
        while not list(out_dir.glob("*saving*")):
            assert time.monotonic() < deadline, "never met within a save"
            time.sleep(0.01)
        processes.signal(lost, signal.SIGSTOP)
        ended, seconds = end_of_others(processes, lost, 90)
    finally:
        processes.kill_all()
    assert_named(ended, lost, "sums of the step")
    assert seconds < TIMEOUT + (15 if lost == 0 else 35), f"{seconds:.1f} s"  # of which rank 0 saves on


HANGS = 3 * TIMEOUT
FEW = (*SETTINGS, "--max_iters", 6, "--eval_interval", -1, "--save_interval", 3)


def lines_with(text, words):
    return [line for line in text.splitlines() if words in line]


def until_said(path, words, processes, timeout=60):
    deadline = time.monotonic() + timeout
    while not (path.exists() and words in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said '{words}'"
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_a_disk_that_hangs_rank_0_is_waited_for_and_named(whole, disk):
    """In a save beside training: training goes on to the next save, where all wait."""
    train(3, *FEW, "--out_dir", "quick", cwd=whole)
    disk(HANGS, ".saving_step_00000003/model.safetensors")
    begin = time.monotonic()
    said = train(3, *FEW, "--out_dir", "hung_disk", cwd=whole)
    assert time.monotonic() - begin > HANGS
    file = "fsync of hung_disk/.saving_step_00000003/model.safetensors"
    first, *_ = named = lines_with(said[0], "rank 0: warning: the disk does not answer: " + file)
    assert " since 20" in first and f", {TIMEOUT} s; " in first, first
    assert 2 <= len(named) <= 3, named  # after 4 s, 8 s and perhaps 12
    assert len(lines_with(said[0], f"the disk answers again: {file} took {HANGS} s")) == 1, said[0]
    log = (whole / "hung_disk" / "training.log").read_text()
    assert len(lines_with(log, "the disk does not answer")) == len(named)
    assert_same_steps(metrics(whole / "quick"), metrics(whole / "hung_disk"), 0)
    for step in (3, 6):
        name = f"step_{step:08d}/model.safetensors"
        assert content(whole / "quick" / name) == content(whole / "hung_disk" / name), name


def test_a_disk_that_hangs_another_rank_is_named_by_it_and_by_rank_0(whole, disk):
    """With a shared optimizer each writes a file. What rank 0 says is what its log and `watch` show."""
    out_dir = whole / "hung_part"
    file = f"fsync of {out_dir}/.saving_step_00000006/optimizer-00001.safetensors"
    disk(HANGS, ".saving_step_00000006/optimizer-00001")
    processes = Processes(3, *FEW, "--shard", "optimizer", "--out_dir", out_dir, cwd=whole)
    try:
        waits = f"'checkpoint: optimizer' of step 6 waits for a disk that does not answer: rank 1 ({file} since 20"
        until_said(out_dir / "training.log", waits, processes.running)
        shown = train_sft("watch", out_dir, cwd=whole)
        assert "! 'checkpoint: optimizer' of step 6 waits for a disk" in shown, shown
        watched = as_json("watch", out_dir, cwd=whole)
        assert waits in watched["last_warning"] and watched["running"], watched
        ended = processes.end()
    finally:
        processes.kill_all()
    assert {code for code, _ in ended.values()} == {0}, ended
    assert len(lines_with(ended[0][1], "rank 0: warning: " + waits)) == 1, ended[0][1]  # said when it changes
    assert lines_with(ended[1][1], "rank 1: warning: the disk does not answer: " + file), ended[1][1]
    assert not lines_with(ended[2][1], "disk"), ended[2][1]
    assert (out_dir / "latest").resolve().name == "step_00000006"


def test_ctrl_c_twice_ends_a_run_whose_disk_hangs(whole, disk, monkeypatch):
    disk(600, ".saving_step_00000006/model.safetensors")
    settings = (*FEW, "--procs", 2, "--save_in_background", "false", "--out_dir", "given_up")
    with open(whole / "given_up.txt", "wb") as console:
        plain = {key: value for key, value in environment().items() if key not in LAUNCHED}
        run = subprocess.Popen([conftest.PROGRAM, *map(str, settings)], cwd=whole, env=plain, stdin=subprocess.DEVNULL,
                               stdout=console, stderr=console)
    try:
        until_said(whole / "given_up.txt", "the disk does not answer: fsync of given_up/.saving_step_00000006", [run])
        run.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # it would save first
            run.wait(timeout=2)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=10) == 130, (whole / "given_up.txt").read_text()
    finally:
        run.kill()
        run.wait()
    monkeypatch.delenv("LD_PRELOAD")
    # Nothing of it is left that holds the directory, and the checkpoint before is whole.
    train(1, "--resume", "auto", "--procs", 2, "--out_dir", "given_up", cwd=whole)
    assert max(metrics(whole / "given_up")) == 6
