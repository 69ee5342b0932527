"""Two machines on one: network namespaces joined by a veth pair, a run of torchrun's on both, the link cut.

    two_machines.py TRAIN_SFT TORCHRUN

Cut, every rank must end within its timeout and say in which collective; joined again, torchrun starts them
again and the run ends as the one that was never cut, bit for bit. Exit code 77, with the reason, where
namespaces are not permitted.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
HERE, THERE = "10.77.0.1", "10.77.0.2"
TIMEOUT_S = 8  # of a collective
SETTINGS = {
    "data": ["text.txt"], "tokenizer_type": "char", "n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64,
    "batch_size": 8, "max_iters": 1500, "eval_interval": -1, "save_interval": 50, "log_interval": 1, "threads": 1,
    "dist_timeout": TIMEOUT_S,
}


def call(*words, check=True):
    return subprocess.run([str(word) for word in words], check=check, capture_output=True, text=True)


def inside_a_namespace(arguments):
    """Starts this script again in a network of its own, which is gone with it."""
    for needed in ("ip", "unshare", "nsenter"):
        if call("sh", "-c", f"command -v {needed}", check=False).returncode != 0:
            print(f"skipped: no {needed}")
            return SKIPPED
    # Nothing outlives a process namespace's first one: this script, however it ends.
    isolate = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0:
        isolate[1:1] = ["--user", "--map-root-user"]
    if call(*isolate, "ip", "link", "set", "lo", "up", check=False).returncode != 0:
        print("skipped: network namespaces are not permitted here")
        return SKIPPED
    return subprocess.run([*isolate, sys.executable, *arguments], env={**os.environ, "TWO_MACHINES": "1"},
                          check=False).returncode


class Machines:
    """This namespace is the one machine; a process that sleeps holds that of the other."""

    def __init__(self):
        self.other = subprocess.Popen(["unshare", "--net", "sleep", "3600"], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL)
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.other.pid}/ns/net") == ours:
            time.sleep(0.01)
        call("ip", "link", "set", "lo", "up")
        call("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
        call("ip", "link", "set", "wire1", "netns", self.other.pid)
        call("ip", "addr", "add", f"{HERE}/24", "dev", "wire0")
        call("ip", "link", "set", "wire0", "up")
        self.over_there("ip", "link", "set", "lo", "up")
        self.over_there("ip", "addr", "add", f"{THERE}/24", "dev", "wire1")
        self.over_there("ip", "link", "set", "wire1", "up")

    def prefix(self, machine):
        return [] if machine == 0 else ["nsenter", "-t", str(self.other.pid), "-n"]

    def over_there(self, *words):
        return call(*self.prefix(1), *words)

    def cut(self):
        call("ip", "link", "set", "wire0", "down")

    def join(self):
        call("ip", "link", "set", "wire0", "up")


def lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def content(path):
    with open(path, "rb") as file:
        return file.read()


def start(machines, machine, torchrun, program):
    words = [*machines.prefix(machine), torchrun, "--no-python", "--nnodes", "2", "--nproc-per-node", "1",
             "--max-restarts", "5", "--rdzv-backend", "c10d", "--rdzv-id", "wire", "--rdzv-endpoint",
             f"{HERE}:29400", "--rdzv-conf", f"is_host={int(machine == 0)},join_timeout=120,read_timeout=10",
             "--local-addr", (HERE, THERE)[machine], program, "--out_dir", "cut", "--resume", "auto"]
    said = open(f"machine{machine}.log", "a+", encoding="utf-8")
    # A session of its own: torchrun and its rank end together at the end of the test.
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
                            start_new_session=True)


def log(machine):
    with open(f"machine{machine}.log", encoding="utf-8", errors="replace") as file:
        return file.read()


def ranks_alive(program):
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.samefile(f"/proc/{pid}/exe", program):
                with open(f"/proc/{pid}/environ", "rb") as file:
                    count += b"TORCHELASTIC_RUN_ID=wire" in file.read().split(b"\0")
        except OSError:
            pass
    return count


def wait_for(what, condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"no {what} in {seconds} s\n--- here\n{log(0)[-4000:]}\n--- there\n{log(1)[-4000:]}")
        time.sleep(0.02)


def run_test(machines, torchrun, program):
    with open("text.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{i} and {i * i} are numbers, {i % 7} of seven\n" for i in range(3000))
    with open("train_sft.json", "w", encoding="utf-8") as file:
        json.dump(SETTINGS, file)
    call(program, "--procs", "2", "--out_dir", "uncut")
    agents = [start(machines, machine, torchrun, program) for machine in (0, 1)]
    try:
        wait_for("120 steps", lambda: len(lines("cut/metrics.jsonl")) >= 120, 120)
        machines.cut()
        cut_at = time.monotonic()
        lost = "lost the other processes in '"
        # Where the meeting place cannot be asked any more the watchdog speaks, some seconds later.
        wait_for("message of each rank", lambda: lost in log(0) and lost in log(1), TIMEOUT_S + 35)
        said_after = time.monotonic() - cut_at
        steps = len(lines("cut/metrics.jsonl"))
        assert steps < SETTINGS["max_iters"], "the run was over before the link was cut"
        machines.join()
        # A machine whose agent has given up is started again, as the cluster's own supervisor would.
        deadline = time.monotonic() + 240
        while any(agent.poll() != 0 for agent in agents):
            for machine, agent in enumerate(agents):
                if agent.poll() not in (None, 0):
                    agents[machine] = start(machines, machine, torchrun, program)
            assert time.monotonic() < deadline, f"not over\n{log(0)[-5000:]}\n--- there\n{log(1)[-5000:]}"
            time.sleep(0.2)
    finally:
        for agent in agents:
            try:
                os.killpg(agent.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    kept = [{key: line[key] for key in ("step", "loss", "grad_norm", "lr")} for line in lines("cut/metrics.jsonl")]
    uncut = [{key: line[key] for key in ("step", "loss", "grad_norm", "lr")} for line in lines("uncut/metrics.jsonl")]
    assert kept == uncut, "the run that was cut differs from the uncut one"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert content(f"cut/latest/{name}") == content(f"uncut/latest/{name}"), name
    print(f"cut after {steps} steps, said after {said_after:.1f} s (timeout {TIMEOUT_S} s), ended as the uncut run")


def main():
    program, torchrun = (os.path.abspath(argument) for argument in sys.argv[1:3])
    if not os.path.exists(torchrun):
        print("skipped: no torchrun")
        return SKIPPED
    if "TWO_MACHINES" not in os.environ:
        return inside_a_namespace([os.path.abspath(__file__), program, torchrun])
    machines = Machines()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run_test(machines, torchrun, program)
        os.chdir("/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
