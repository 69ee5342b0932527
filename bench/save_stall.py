#!/usr/bin/env python3
"""How long a save holds training up: written beside training, and with training waiting.

    bench/save_stall.py TRAIN_SFT [--steps 60] [--every 10] [--threads 1] [--runs 3] [--out_dir DIR]

Trains a GPT-2 of 23M parameters on random text with a log line a step; the times between the lines are the
times of steps with all that happens between them. Prints medians, minimum and maximum of: a step without a save
before it, the first step after a save, and what a save costs in all (the sum of what the steps until the next save
take more than the median step; noise of other steps is in it).
"""

import argparse
import pathlib
import random
import re
import statistics
import subprocess
import tempfile
import time

MODEL = ["--n_layer", 6, "--n_head", 8, "--n_embd", 512, "--vocab_size", 8000, "--block_size", 128, "--batch_size", 4]
LINE = re.compile(r"step (\d+)/")


def times_of_steps(words, folder):
    """step → seconds from the line of the step before to its own."""
    at = {}
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if found := LINE.match(line):
                at[int(found[1])] = time.monotonic()
    if process.returncode != 0:
        raise SystemExit(f"{words[0]} ended with {process.returncode}")
    return {step: at[step] - at[step - 1] for step in at if step - 1 in at}


def show(name, seconds):
    milliseconds = [1000 * value for value in seconds]
    print(f"  {name:<24} {statistics.median(milliseconds):8.0f} ms ({min(milliseconds):.0f} … {max(milliseconds):.0f}), "
          f"{len(milliseconds)} times")


def run(options, folder, background):
    out = pathlib.Path(folder) / f"out_{background}"
    words = [options.program, "--data", "text.txt", "--tokenizer", "tok", "--out_dir", out, *MODEL, "--max_iters", options.steps,
             "--save_interval", options.every, "--eval_interval", -1, "--log_interval", 1, "--threads", options.threads,
             "--precision", "fp32", "--keep", 1, "--keep_optimizer", 1, "--val_split", 0, "--save_in_background", background]
    times = times_of_steps(list(map(str, words)), folder)
    size = sum(file.stat().st_size for file in (out / "latest").resolve().iterdir())
    subprocess.run(["rm", "-r", out], check=True)
    return times, size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out_dir", default=None, help="where checkpoints are written: the disk that is measured")
    options = parser.parse_args()
    options.program = str(pathlib.Path(options.program).resolve())
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(dir=options.out_dir) as folder:
        words = ["".join(chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(chance.randrange(2, 9))) for _ in range(9000)]
        (pathlib.Path(folder) / "text.txt").write_text(" ".join(chance.choice(words) for _ in range(300000)), encoding="utf-8")
        subprocess.run([options.program, "prepare", "--data", "text.txt", "--tokenizer_type", "bpe", "--vocab_size", "8000",
                        "--out", "tok"], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for background in ("true", "false"):
            usual, after, cost = [], [], []
            for _ in range(options.runs):
                times, size = run(options, folder, background)
                saves = range(options.every, options.steps, options.every)
                # Steps 1 and 2 touch memory for the first time.
                calm = [seconds for step, seconds in times.items() if step > 2 and (step - 1) % options.every >= options.every // 2]
                usual += calm
                after += [times[save + 1] for save in saves]
                median = statistics.median(calm)
                cost += [sum(times[step] - median for step in range(save + 1, min(save + options.every, options.steps)))
                         for save in saves]
            print(f"save_in_background {background}, {size / 1e6:.0f} MB a checkpoint, {options.threads} threads")
            show("a step", usual)
            show("the step after a save", after)
            show("a save costs in all", cost)


if __name__ == "__main__":
    main()
