"""A long run grows in nothing: memory, file handles, time of a step.

    slopes.py TRAIN_SFT [STEPS]

Trains a tiny model for so many steps (10,000) with evaluations, samples, TensorBoard and checkpoints,
looks at the process every few steps, and prints by how much each grows in 10,000 steps: the slope of
the line through the medians of the second and the last sixth, the time of warming up left out.
"""
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

SETTINGS = {
    "data": ["text.txt"], "tokenizer_type": "char", "n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 64,
    "batch_size": 4, "eval_interval": 500, "save_interval": 250, "sample_interval": 1000, "keep": 2,
    "threads": 1, "use_tensorboard": True, "learning_rate": 1e-3,
}
# In 10,000 steps. An allocator's caches move by fractions of a megabyte; each record (a step of ten) stays in memory
# with 0.2 kB for the signs, which look back over a quarter of the run.
LIMITS = {"memory": 4.0, "file handles": 0.5, "step time": 15.0}


def observe(process):
    """Resident megabytes and open files; None when the process is gone."""
    try:
        with open(f"/proc/{process.pid}/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{process.pid}/fd"))
    except (OSError, IndexError):
        return None


def steps_done(path):
    """The step of the last whole record."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 4096))
            return json.loads(file.read().split(b"\n")[-2])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def growth(points, steps):
    """Per 10,000 steps, and the median: points are (step, value)."""
    def part(sixth):
        inside = [(s, v) for s, v in points if steps * sixth / 6 <= s <= steps * (sixth + 1) / 6]
        return statistics.median(s for s, _ in inside), statistics.median(v for _, v in inside)
    (s1, v1), (s2, v2) = part(1), part(5)
    return (v2 - v1) / (s2 - s1) * 10000, statistics.median(v for _, v in points)


def main():
    program, steps = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10000
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        words = ["the", "cat", "sat", "on", "a", "mat", "and", "slept"]
        with open("text.txt", "w", encoding="utf-8") as file:
            file.write(" ".join(chance.choice(words) for _ in range(20000)))
        with open("train_sft.json", "w", encoding="utf-8") as file:
            json.dump({**SETTINGS, "max_iters": steps}, file)
        said = open("said", "w+", encoding="utf-8")  # a pipe that nobody reads fills up, and the program waits
        run = subprocess.Popen([program, "--out_dir", "out"], stdout=subprocess.DEVNULL, stderr=said)
        memory, handles = [], []
        while run.poll() is None:
            at, seen = steps_done("out/metrics.jsonl"), observe(run)
            if at > 0 and seen:
                memory.append((at, seen[0]))
                handles.append((at, seen[1]))
            time.sleep(0.05)
        said.seek(0)
        assert run.returncode == 0, said.read()[-2000:]
        with open("out/metrics.jsonl", encoding="utf-8") as file:
            times = [(line["step"], line["step_ms"]) for line in map(json.loads, file)]
        assert times[-1][0] == steps and len(times) >= steps // 10, f"{len(times)} records, the last of {times[-1]}"
        os.chdir("/")

    failed = False
    for name, unit, points in (("memory", "MB", memory), ("file handles", "", handles), ("step time", "%", times)):
        slope, median = growth(points, steps)
        if unit == "%":
            print(f"{name:13} median {median:9.3f} ms, grows by {100 * slope / median:+.2f} % in 10,000 steps")
            slope = 100 * slope / median
        else:
            print(f"{name:13} median {median:9.3f} {unit}, grows by {slope:+.3f} {unit} in 10,000 steps")
        if slope > LIMITS[name]:
            print(f"FAILED: {name} grows by more than {LIMITS[name]} {unit}")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
