"""Several processes of one run, started as torchrun would start them."""

import os
import signal
import socket
import subprocess
import time

import conftest
from conftest import environment, metrics

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def write_words(path, lines):
    """Lines of 3 to 14 words: text whose loss falls."""
    words = "the quick brown fox jumps over the lazy dog while seven wizards box".split()
    path.write_text("\n".join(" ".join(words[(i * 7 + j * 3) % 13] for j in range(3 + i % 12)) for i in range(lines)) + "\n",
                    encoding="utf-8")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """train_sft as ranks 0 … n-1. `arguments` and `folders` may differ by rank."""

    def __init__(self, count, *arguments, cwd, of_rank=None, folders=None):
        port = free_port()
        self.started = time.monotonic()
        self.running = []
        for rank in range(count):
            place = dict(zip(LAUNCHED, (rank, count, rank, count, "127.0.0.1", port)))
            more = (of_rank or {}).get(rank, ())
            self.running.append(subprocess.Popen(
                [conftest.PROGRAM, *map(str, arguments), *map(str, more)], cwd=(folders or {}).get(rank, cwd),
                env=environment(**place, OMP_WAIT_POLICY="passive"), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))

    def signal(self, rank, number):
        os.kill(self.running[rank].pid, number)

    def end(self, ranks=None, timeout=120):
        """Waits; (exit code, what it said) by rank."""
        ended = {}
        deadline = time.monotonic() + timeout
        try:
            for rank in ranks if ranks is not None else range(len(self.running)):
                said, _ = self.running[rank].communicate(timeout=max(0.1, deadline - time.monotonic()))
                ended[rank] = (self.running[rank].returncode, said)
        finally:
            for process in self.running:
                if process.poll() is None and (ranks is None or process is self.running[-1]):
                    process.kill()
        return ended

    def kill_all(self):
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


def train(count, *arguments, cwd, code=0, timeout=240, **options):
    """Runs all to their end; what they said, by rank."""
    if count == 1:
        plain = {key: value for key, value in environment().items() if key not in LAUNCHED}
        result = subprocess.run([conftest.PROGRAM, *map(str, arguments)], cwd=cwd, env=plain, timeout=timeout,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ended = {0: (result.returncode, result.stdout)}
    else:
        processes = Processes(count, *arguments, cwd=cwd, **options)
        try:
            ended = processes.end(timeout=timeout)
        finally:
            processes.kill_all()
    codes = {rank: got for rank, (got, _) in ended.items()}
    assert set(codes.values()) == {code}, f"{codes}\n" + "\n".join(said[-3000:] for _, said in ended.values())
    return {rank: said for rank, (_, said) in ended.items()}


def wait_for_step(out_dir, step, processes, timeout=120):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if max(metrics(out_dir), default=0) >= step:
                return
        except (OSError, ValueError):  # not there yet, or read while a line is written
            pass
        for process in processes.running:
            assert process.poll() is None, f"ended before step {step}: {process.communicate()[0][-3000:]}"
        time.sleep(0.005)
    raise AssertionError(f"no step {step} in {timeout} s")


def stopped_at_counts(cwd, out_dir, first, stages, rank_of=lambda count: 0):
    """A run begun with the words `first` that is stopped and goes on with other numbers of processes. Of each stage the
    processes, the step they are stopped after by a SIGTERM to one, and more words. Returns the words to go on with."""
    words = first
    for count, until, *more in stages:
        processes = Processes(count, *words, *more, cwd=cwd)
        try:
            wait_for_step(cwd / out_dir, until, processes)
            processes.signal(rank_of(count), signal.SIGTERM)
            ended = processes.end()
        finally:
            processes.kill_all()
        assert {code for code, _ in ended.values()} == {143}, ended
        words = ("--resume", "auto", "--out_dir", out_dir)
    return words


COMPARED = ("loss", "grad_norm", "val_loss")
COUNTED = ("tokens", "examples", "epoch", "lr", "skipped")


def assert_same_steps(expected, got, tolerance, grad_norm=None):
    """Records by step: counts alike, losses within the tolerance (0: to the bit), gradient norms, too, or within theirs."""
    assert list(expected) == list(got)
    for step, record in expected.items():
        for key in COUNTED:
            assert record[key] == got[step][key], (step, key, record[key], got[step][key])
        for key in COMPARED:
            assert (key in record) == (key in got[step]), (step, key)
            if key not in record:
                continue
            a, b = record[key], got[step][key]
            allowed = grad_norm if key == "grad_norm" and grad_norm is not None else tolerance
            assert abs(a - b) <= allowed * abs(a), (step, key, a, b)
