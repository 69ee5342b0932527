#!/usr/bin/env python3
"""Muon against AdamW: validation loss against steps, and at equal time.

    bench/compare_muon.py TEXT [--config shakespeare_char] [--steps 2000] [--seeds 3] [--threads 1] [--folder DIR]

The same model on the same tokens. Each optimizer's learning rate is the one of three with the lowest validation loss
after all steps (with the first seed); min_lr is a tenth of it. Then both train with each seed, and Muon once more with
as many steps as AdamW's time pays for: its steps take longer, and a schedule that ends earlier is not a schedule cut
off. Time is the sum of the steps' own, evaluations left out. Prints a table of the validation losses (mean of the
seeds), and writes everything as JSON to FOLDER/compare_muon.json.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
RATES = {"adamw": (2e-3, 4e-3, 8e-3), "muon": (2e-3, 4e-3, 8e-3)}  # 1e-3 was tried: too low for AdamW


class Bench:
    def __init__(self, arguments, folder):
        self.a, self.folder = arguments, folder

    def train(self, optimizer, rate, seed, steps):
        out = self.folder / "run"
        command = [ROOT / "build" / "train_sft", "--config", self.a.config, "--data", self.a.text, "--optimizer", optimizer,
                   "--learning_rate", rate, "--min_lr", rate / 10, "--seed", seed, "--max_iters", steps, "--warmup_iters",
                   steps // 20, "--eval_interval", max(1, steps // 8), "--save_interval", 10**6, "--log_interval", 1,
                   "--threads", self.a.threads, "--precision", "fp32", "--out_dir", out, "--json"]
        subprocess.run([str(part) for part in command], cwd=self.folder, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        shutil.rmtree(out)
        found = {"optimizer": optimizer, "learning_rate": rate, "seed": seed, "steps": steps,
                 "seconds": sum(line["step_ms"] for line in lines) / 1e3,
                 "step_ms": statistics.median(line["step_ms"] for line in lines),
                 "val_loss": {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}}
        found["last"] = list(found["val_loss"].values())[-1]
        print(f"{optimizer}, learning rate {rate:g}, seed {seed}, {steps} steps: {found['seconds']:.1f} s, validation loss "
              f"{found['last']:.4f}", file=sys.stderr, flush=True)
        return found

    def run(self):
        first, steps = 1337, self.a.steps
        result = {"search": [], "equal_steps": {}, "equal_time": []}
        for optimizer, rates in RATES.items():
            tried = [self.train(optimizer, rate, first, steps) for rate in rates]
            best = min(tried, key=lambda run: run["last"])
            result["search"] += tried
            more = [self.train(optimizer, best["learning_rate"], first + n, steps) for n in range(1, self.a.seeds)]
            result["equal_steps"][optimizer] = [best, *more]
        adamw, muon = result["equal_steps"]["adamw"], result["equal_steps"]["muon"]
        slower = statistics.median(r["step_ms"] for r in muon) / statistics.median(r["step_ms"] for r in adamw)
        affordable = max(8, int(steps / slower))
        for run in muon:
            result["equal_time"].append(self.train("muon", run["learning_rate"], run["seed"], affordable))
        return result


def losses(runs, step):
    return statistics.mean(run["val_loss"][step] for run in runs)


def print_table(result):
    print("| learning rate | " + " | ".join(f"{r['optimizer']} {r['learning_rate']:g}" for r in result["search"]) + " |")
    print("|---|" + "---|" * len(result["search"]))
    print("| validation loss | " + " | ".join(f"{r['last']:.4f}" for r in result["search"]) + " |\n")
    rows = {f"{name}, learning rate {runs[0]['learning_rate']:g}": runs for name, runs in result["equal_steps"].items()}
    steps = list(next(iter(rows.values()))[0]["val_loss"])
    print("| validation loss at step | " + " | ".join(f"{step:,}" for step in steps) + " | a step, ms | all steps, s |")
    print("|---|" + "---|" * (len(steps) + 2))
    for name, runs in rows.items():
        print(f"| {name} | " + " | ".join(f"{losses(runs, step):.4f}" for step in steps) +
              f" | {statistics.median(r['step_ms'] for r in runs):.2f} | {statistics.median(r['seconds'] for r in runs):.1f} |")
    less = result["equal_time"]
    print(f"\nMuon in AdamW's time: {less[0]['steps']:,} steps, {statistics.median(r['seconds'] for r in less):.1f} s, validation "
          f"loss {statistics.mean(r['last'] for r in less):.4f} ({', '.join(format(r['last'], '.4f') for r in less)}); AdamW "
          f"{', '.join(format(r['last'], '.4f') for r in result['equal_steps']['adamw'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--config", default="shakespeare_char")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    arguments.text = str(pathlib.Path(arguments.text).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(arguments.folder or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        result = Bench(arguments, folder).run()
        (folder / "compare_muon.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print_table(result)


if __name__ == "__main__":
    main()
