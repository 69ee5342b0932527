"""A run killed at random moments and started again with --resume auto ends like the uncut one.

    kill_and_resume.py TRAIN_SFT

Weights and moments are compared bit for bit, metrics.jsonl and samples.jsonl line for line.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import time

SETTINGS = {
    "data": ["text.txt"], "tokenizer_type": "char", "n_layer": 2, "n_head": 2, "n_embd": 32,
    "block_size": 64, "batch_size": 4, "max_iters": 120, "eval_interval": 20, "save_interval": 5,
    "log_interval": 1, "sample_interval": 25, "dropout": 0.1, "threads": 2,
}
COMPARED = ("step", "epoch", "tokens", "examples", "loss", "lr", "grad_norm", "skipped", "val_loss")
# Killed as soon as so many steps are on record, the first time while still setting up.
KILL_AT = (0, 4, 23, 47, 66, 88)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def content(path):
    with open(path, "rb") as file:
        return file.read()


def start(program, out_dir):
    return subprocess.Popen([program, "--out_dir", out_dir, "--resume", "auto"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def recorded_steps():
    try:
        return len(lines("cut/metrics.jsonl"))
    except (OSError, ValueError):  # not there yet, or read while a line is written
        return 0


def killed(run, steps):
    """Kills the run at so many steps. False when it ended before."""
    while run.poll() is None:
        if recorded_steps() >= steps and (steps > 0 or os.path.exists("cut/training.log")):
            run.kill()
            run.wait()
            return True
        time.sleep(0.001)
    return False


def main():
    program = os.path.abspath(sys.argv[1])
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        words = ["the", "cat", "sat", "on", "a", "mat", "and", "slept"]
        with open("text.txt", "w", encoding="utf-8") as file:
            file.write(" ".join(chance.choice(words) for _ in range(6000)))
        with open("train_sft.json", "w", encoding="utf-8") as file:
            json.dump(SETTINGS, file)

        assert start(program, "whole").wait() == 0
        kills = sum(killed(start(program, "cut"), steps) for steps in KILL_AT)
        assert kills >= 3, f"only {kills} kills: the run is too short to be cut"
        assert start(program, "cut").wait() == 0

        for name in ("model.safetensors", "optimizer.safetensors"):
            assert content(f"whole/latest/{name}") == content(f"cut/latest/{name}"), name
        whole, cut = lines("whole/metrics.jsonl"), lines("cut/metrics.jsonl")
        assert [line["step"] for line in cut] == list(range(1, SETTINGS["max_iters"] + 1))
        for a, b in zip(whole, cut):
            for key in COMPARED:
                assert a.get(key) == b.get(key), (a["step"], key, a.get(key), b.get(key))
        assert lines("whole/samples.jsonl") == lines("cut/samples.jsonl")
        assert os.readlink("whole/best_model") == os.readlink("cut/best_model")
        print(f"{kills} kills, same weights, same metrics")


if __name__ == "__main__":
    main()
