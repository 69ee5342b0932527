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
KILLS = 6


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def content(path):
    with open(path, "rb") as file:
        return file.read()


def start(program, out_dir):
    return subprocess.Popen([program, "--out_dir", out_dir, "--resume", "auto"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


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

        begin = time.monotonic()
        assert start(program, "whole").wait() == 0
        seconds = time.monotonic() - begin

        kills = 0
        while True:
            run = start(program, "cut")
            try:
                code = run.wait(chance.uniform(0.2, 0.6) * seconds if kills < KILLS else None)
                assert code == 0, f"exit code {code} after {kills} kills"
                break
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                kills += 1
        assert kills >= 3, f"only {kills} kills: the run is too short to be cut"

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
