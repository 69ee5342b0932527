"""Signals to the program as a person or a scheduler sends them.

    stop_signals.py TRAIN_SFT

SIGTERM and SIGINT save and end with 143 and 130 within seconds, in every phase; a second SIGINT ends
at once; SIGUSR1 saves and the run goes on; a SLURM script gets both.
"""
import json
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.abspath(sys.argv[1])
SOON = 8.0  # seconds; a busy machine included

TINY = {"tokenizer_type": "char", "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32, "batch_size": 4,
        "threads": 1, "log_interval": 1, "eval_interval": -1, "max_iters": 1000000, "warmup_iters": 0}


def start(*arguments, **more):
    settings = dict(more)
    words = [PROGRAM, *arguments]
    for name, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            words += [f"--{name}", str(item)]
    return launch(words)


def launch(words):
    """To a file: a pipe that nobody reads fills up, and the program waits."""
    said = tempfile.TemporaryFile()
    run = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
    run.said = said
    return run


def output(run):
    run.said.seek(0)
    return run.said.read().decode()[-3000:]


def wait_for(what, condition, run, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if run.poll() is not None:
            raise AssertionError(f"ended before {what}: {output(run)}")
        assert time.monotonic() < end, f"no {what} in {seconds} s"
        time.sleep(0.005)


def handles_signals(run):
    """Whether the program is past its loading, which takes seconds on a busy machine: SIGUSR1 is taken care of last."""
    with open(f"/proc/{run.pid}/status", encoding="ascii") as file:
        caught = next((line for line in file if line.startswith("SigCgt:")), "SigCgt: 0")
    return int(caught.split()[1], 16) & 1 << (signal.SIGUSR1 - 1)


def steps(out_dir):
    try:
        with open(f"{out_dir}/metrics.jsonl", encoding="utf-8") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


def ends(run, code, seconds=SOON):
    begin = time.monotonic()
    run.wait(timeout=60)
    took = time.monotonic() - begin
    said = output(run)
    assert run.returncode == code, f"code {run.returncode}, expected {code}: {said}"
    assert took < seconds, f"took {took:.1f} s: {said}"
    return said, took


def latest_state(out_dir):
    with open(f"{out_dir}/latest/train_state.json", encoding="utf-8") as file:
        return json.load(file)


def in_training():
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        out_dir = f"training{code}"
        run = start(data="text.txt", out_dir=out_dir, **TINY)
        wait_for("steps", lambda: steps(out_dir) > 3, run)
        run.send_signal(number)
        said, took = ends(run, code)
        assert "go on with --resume auto" in said, said
        saved = latest_state(out_dir)["step"]
        assert saved >= steps(out_dir) > 3, "the last step is saved"
        print(f"training, signal {number}: code {code} in {took:.2f} s")


def within_a_step():
    """Of 4096 micro-batches a step, the one at work is finished and no other."""
    settings = dict(TINY, grad_accum=4096, batch_size=1)
    run = start(data="text.txt", out_dir="accumulation", **settings)
    wait_for("the log", lambda: os.path.exists("accumulation/training.log")
             and "learning rate" in open("accumulation/training.log", encoding="utf-8").read(), run)
    time.sleep(0.3)
    run.send_signal(signal.SIGTERM)
    ends(run, 143)
    saved, reported = latest_state("accumulation")["step"], steps("accumulation")
    assert saved == reported < 20, (saved, reported)


def save_on_request():
    run = start(data="text.txt", out_dir="usr1", save_interval=1000000, **TINY)
    wait_for("steps", lambda: steps("usr1") > 3, run)
    for _ in range(2):
        before = os.readlink("usr1/latest") if os.path.lexists("usr1/latest") else ""
        run.send_signal(signal.SIGUSR1)
        wait_for("a checkpoint", lambda: os.path.lexists("usr1/latest") and os.readlink("usr1/latest") != before, run)
        at = steps("usr1")
        wait_for("further steps", lambda: steps("usr1") > at + 3, run)
    run.send_signal(signal.SIGTERM)
    ends(run, 143)


def second_interrupt():
    """Twice Ctrl-C, while the save waits for a disk: the program ends by the signal itself."""
    run = start(data="text.txt", out_dir="twice", **dict(TINY, batch_size=64, grad_accum=64))
    wait_for("a step", lambda: steps("twice") > 0, run)
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGINT)
    begin = time.monotonic()
    run.wait(timeout=60)
    assert run.returncode in (-signal.SIGINT, 130), run.returncode
    assert time.monotonic() - begin < SOON


def in_evaluation():
    settings = dict(TINY, eval_interval=1, batch_size=1, save_interval=1000000)
    run = start(data="text.txt", val_data="long.txt", out_dir="evaluation", **settings)
    wait_for("the first step", lambda: os.path.exists("evaluation/training.log")
             and "learning rate" in open("evaluation/training.log", encoding="utf-8").read(), run)
    time.sleep(0.5)
    run.send_signal(signal.SIGTERM)
    ends(run, 143)
    state = latest_state("evaluation")
    assert state["step"] == 1 and state["unreported"], "stopped within the first evaluation, which is to be made up for"


def in_long_work():
    """Outside training nothing is saved, and nothing waits."""
    with open("chat.jsonl", "w", encoding="utf-8") as file:
        for i in range(40):
            file.write(json.dumps({"prompt": f"say {i}", "completion": "x"}) + "\n")
    # Long in positions, and deep enough that thousands of tokens take many seconds.
    model = dict(TINY, n_layer=6, n_embd=256, block_size=8192, max_iters=1, batch_size=1)
    ends(start(data="chat.jsonl", out_dir="model", **model), 0, 60)
    stopped = 0
    for name, number, code, arguments, settings in (
            ("tokenising", signal.SIGTERM, 143, ["prepare"],
             {"data": "long.txt", "tokenizer": "usr1/tokenizer", "out": "prepared"}),
            ("training a tokenizer", signal.SIGINT, 130, ["prepare"],
             {"data": "long.txt", "tokenizer_type": "unigram", "vocab_size": 4000, "out": "prepared"}),
            ("generation", signal.SIGTERM, 143, ["generate"],
             {"checkpoint": "model/latest", "prompt": "the", "max_new_tokens": 8000}),
            ("evaluation of a model", signal.SIGTERM, 143, ["eval"], {"checkpoint": "model/latest", "data": "long.txt"}),
            ("setting up", signal.SIGTERM, 143, [], dict(TINY, data="long.txt", out_dir="setting_up"))):
        run = start(*arguments, **settings)
        wait_for("its handlers", lambda: handles_signals(run), run)
        run.send_signal(signal.SIGUSR1)  # asks for a checkpoint: what makes none goes on
        time.sleep(0.15)
        begin = time.monotonic()
        run.send_signal(number)
        run.wait(timeout=60)
        took = time.monotonic() - begin
        assert run.returncode in (0, code), f"{name}: code {run.returncode}: {output(run)}"
        assert took < SOON, f"{name}: took {took:.1f} s"
        stopped += run.returncode == code  # a fast machine may have been done by then
        print(f"{name}: code {run.returncode} in {took:.2f} s")
    assert stopped >= 2, "the work is too short to be stopped"


def as_slurm_does():
    """--signal=B:USR1@120 goes to the batch shell, which hands it on, as docs/reliability.md says."""
    with open("job.sh", "w", encoding="utf-8") as file:
        file.write('"$@" &\npid=$!\ntrap "kill -USR1 $pid" USR1\ntrap "kill -TERM $pid" TERM\n'
                   'while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done\nexit $code\n')
    words = ["bash", "job.sh", PROGRAM, "--data", "text.txt", "--out_dir", "slurm"]
    for name, value in TINY.items():
        words += [f"--{name}", str(value)]
    run = launch(words)
    wait_for("steps", lambda: steps("slurm") > 3, run)
    run.send_signal(signal.SIGUSR1)
    wait_for("a checkpoint", lambda: os.path.lexists("slurm/latest"), run)
    at = steps("slurm")
    wait_for("further steps", lambda: steps("slurm") > at + 3, run)
    run.send_signal(signal.SIGTERM)
    ends(run, 143)


class InTerminal:
    """A run with a terminal of its own, used as a Popen is."""

    def __init__(self, *words):
        self.said = tempfile.TemporaryFile()
        self.returncode = None
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvp(words[0], words)
        os.set_blocking(self.terminal, False)

    def poll(self):
        try:
            while self.terminal is not None:
                self.said.write(os.read(self.terminal, 65536))
        except (BlockingIOError, OSError):  # nothing to read; nobody writes any more
            pass
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended != 0:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, f"still there after {timeout} s"
            time.sleep(0.005)

    def send_signal(self, number):
        os.kill(self.pid, number)

    def close_terminal(self):
        os.close(self.terminal)
        self.terminal = None


def terminal_closed():
    """Somebody closes the window: the run saves, though what it says reaches nobody; under nohup it goes on."""
    for before, out_dir in ([], "window"), (["nohup"], "nohup"):
        words = [*before, PROGRAM, "--data", "text.txt", "--out_dir", out_dir]
        for name, value in TINY.items():
            words += [f"--{name}", str(value)]
        run = InTerminal(*words)
        wait_for("steps", lambda: steps(out_dir) > 3, run)
        run.close_terminal()
        if before:
            at = steps(out_dir)
            wait_for("further steps", lambda: steps(out_dir) > at + 3, run)
            run.send_signal(signal.SIGTERM)
        _, took = ends(run, 143)
        saved = latest_state(out_dir)["step"]
        assert saved >= steps(out_dir) > 3, "the last step is saved"
        print(f"terminal closed {before}: code 143 in {took:.2f} s")


def main():
    chance = random.Random(1)
    words = ["".join(chance.choice("abcdefghij") for _ in range(1 + chance.randrange(9))) for _ in range(4000)]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("text.txt", "w", encoding="utf-8") as file:
            file.write(" ".join(chance.choice(words) for _ in range(4000)))
        with open("long.txt", "w", encoding="utf-8") as file:
            for _ in range(60):
                file.write(" ".join(chance.choice(words) for _ in range(40000)) + "\n")
        for check in (in_training, within_a_step, save_on_request, second_interrupt, in_evaluation, in_long_work,
                      as_slurm_does, terminal_closed):
            check()
            print(f"{check.__name__}: ok", flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
