#!/usr/bin/env python3
"""The rows of bench/compare_cpu.sh, which prepares what they need and prints the table.

Everything is measured in turn, round after round, in processes of their own, on this machine: train_sft in fp32 (and
bf16), PyTorch eager and torch.compile (the faster of 1 and 2 threads, found in the first round), and the roofline of
bench/roofline.cpp. Medians of the rounds' medians, with the least and the most; the share of the roofline is the median of
the rounds' shares; peak resident memory of the process.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
HERE = ROOT / "bench"

# name: layers, heads, width, vocabulary (a char tokenizer has 334 with its byte pieces), tokens a row, rows, steps to
# warm up, steps timed
MODELS = {"124M": (12, 12, 768, 50304, 1024, 4, 1, 4),
          "6 x 384": (6, 6, 384, 334, 256, 8, 3, 10),
          "4 x 128": (4, 4, 128, 334, 64, 12, 20, 200)}


def run(command, **more):
    """(stdout, peak resident bytes)"""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True, **more)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(map(str, command))}: exit status {process.returncode}\n{errors.read()[-2000:]}")
    return out, usage.ru_maxrss * 1024


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread(found, digits=2):
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f}–{found['max']:.{digits}f})"


class Series:
    """Rates (tokens/s or examples/s) of the rounds, and the largest peak memory."""

    def __init__(self):
        self.rates, self.peak = [], 0

    def add(self, rate, peak):
        self.rates.append(rate)
        self.peak = max(self.peak, peak)

    def summary(self):
        return {**summary(self.rates), "rounds": len(self.rates), "peak_bytes": self.peak}


class Bench:
    def __init__(self, arguments):
        self.a = arguments
        self.program = ROOT / "build" / "train_sft"
        self.folder = pathlib.Path(arguments.folder)
        self.series = {}

    def add(self, row, who, rate, peak):
        self.series.setdefault(row, {}).setdefault(who, Series()).add(rate, peak)
        print(f"{row}: {who}: {rate:.2f}/s, {peak / 1e9:.2f} GB", file=sys.stderr, flush=True)

    def steps_of(self, out_dir, skip):
        lines = [json.loads(line) for line in (self.folder / out_dir / "metrics.jsonl").read_text().splitlines()]
        return lines[skip:]

    # -- pretraining
    def training(self, name, precision, steps):
        layers, heads, width, vocabulary, length, rows, _, _ = MODELS[name]
        return [self.program, "--data", self.a.text, "--tokenizer", "tokenizer", "--vocab_size", vocabulary, "--n_layer",
                layers, "--n_head", heads, "--n_embd", width, "--block_size", length, "--batch_size", rows, "--max_iters",
                steps, "--val_split", 0, "--log_interval", 1, "--precision", precision, "--threads", self.a.threads,
                "--out_dir", "run", "--save_interval", 10**6, "--json"]

    def remove_run(self):
        shutil.rmtree(self.folder / "run")

    # Tokens a second, and the peak; the run stays in the folder.
    def train(self, name, precision):
        _, _, _, _, length, rows, warm, steps = MODELS[name]
        _, peak = run(self.training(name, precision, warm + steps), cwd=self.folder)
        ms = statistics.median(line["step_ms"] for line in self.steps_of("run", warm))
        return rows * length / ms * 1e3, peak

    def ours(self, name, precision):
        self.add(name, "ours " + precision, *self.train(name, precision))
        self.remove_run()

    def torch(self, name, kind, threads):
        layers, heads, width, vocabulary, length, rows, warm, steps = MODELS[name]
        out, peak = run([sys.executable, HERE / "gpt_torch.py", "--n_layer", layers, "--n_head", heads, "--n_embd", width,
                         "--vocab_size", vocabulary, "--block_size", length, "--batch_size", rows, "--threads", threads,
                         "--warmup", warm, "--steps", steps, *(["--compile"] if kind == "compile" else [])])
        rate = rows * length / statistics.median(json.loads(out)["seconds"])
        self.add(name, f"{kind} {threads} thread{'s' if threads > 1 else ''}", rate, peak)
        return rate

    def roofline(self, name, precision):
        layers, heads, width, vocabulary, length, rows, _, _ = MODELS[name]
        out, peak = run([ROOT / "build" / "bench" / "roofline", "--n_layer", layers, "--n_head", heads, "--n_embd", width,
                         "--vocab", vocabulary, "--length", length, "--batch", rows, "--precision", precision,
                         "--threads", self.a.threads])
        found = json.loads(out)
        self.add(name, "roofline " + precision, found["roofline_tokens_per_s"], peak)
        return found

    def pretraining(self, name):
        rooflines, threads = {}, {"eager": [1, 2], "compile": [1, 2]}
        if name == "124M":
            threads = {"eager": [2], "compile": [2]}  # a quarter of an hour less
        for number in range(self.a.rounds):
            # A roofline beside what is held against it: minutes later the neighbours are others.
            for precision in ("fp32", "bf16"):
                self.ours(name, precision)
                found = self.roofline(name, precision)
                if number == 0:
                    rooflines[precision] = found
            for kind in threads:
                rates = {count: self.torch(name, kind, count) for count in threads[kind]}
                threads[kind] = [max(rates, key=rates.get)]
        return rooflines

    # -- evaluation against training, and the time from the program's start to its first step
    def evaluation(self, name):
        rows = MODELS[name][5]
        text = pathlib.Path(self.a.text).read_text(encoding="utf-8")
        part = self.folder / "part.txt"
        result = {}
        for number in range(self.a.rounds):
            for precision in ("fp32", "bf16"):
                trained, _ = self.train(name, precision)
                # A character is a token; at three times the rate of training this takes the seconds asked for.
                characters = int(3 * trained * self.a.eval_seconds)
                part.write_text((text * (characters // len(text) + 1))[:characters], encoding="utf-8")
                out, _ = run([self.program, "eval", "--checkpoint", "run/latest", "--data", part, "--batch_size", rows,
                              "--threads", self.a.threads, "--precision", precision, "--json"], cwd=self.folder)
                rate = json.loads(out)["tokens_per_s"]
                self.remove_run()
                found = result.setdefault(precision, {"tokens": characters, "rates": [], "per_training": []})
                found["rates"].append(rate)
                found["per_training"].append(rate / trained)
                print(f"evaluation of {name} {precision}: {characters} tokens at {rate:.0f}/s, {rate / trained:.2f} of training",
                      file=sys.stderr, flush=True)
            result.setdefault("start_up_s", []).append(self.start_up(self.training(name, "fp32", 1)))
        for precision in ("fp32", "bf16"):
            result[precision]["tokens_per_s"] = summary(result[precision].pop("rates"))
            result[precision]["per_training"] = summary(result[precision]["per_training"])
        result["start_up_s"] = summary(result["start_up_s"])
        return result

    # Until the first line of metrics.jsonl, less that step's own time.
    def start_up(self, command):
        log = self.folder / "run" / "metrics.jsonl"
        begin = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], cwd=self.folder, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.002)
        waited = time.perf_counter() - begin
        process.wait()
        step_ms = json.loads(log.read_text().splitlines()[0])["step_ms"]
        self.remove_run()
        return waited - step_ms / 1e3

    # -- one token at a time: what of the memory's bandwidth its weights use. Neighbours take their share of the memory
    # from one minute to the next, so the bandwidth is measured before and after each run.
    def bandwidth(self):
        out, _ = run([ROOT / "build" / "bench" / "roofline", "--bandwidth_only", "--threads", self.a.threads])
        return json.loads(out)["bandwidth_gb_s"]

    def decoding(self):
        weights = (pathlib.Path(self.a.model) / "model.safetensors").stat().st_size
        result = {}
        for precision, size in (("fp32", weights), ("bf16", weights / 2)):
            reads, memory = [], []
            for number in range(self.a.rounds):
                before = self.bandwidth()
                out, _ = run([self.program, "generate", "--checkpoint", self.a.model, "--prompt", "Once upon a time", "--seed",
                              3 + number, "--max_new_tokens", 100, "--precision", precision, "--threads", self.a.threads,
                              "--json"], cwd=self.folder)
                reads.append(json.loads(out)["tokens_per_s"] * size / 1e9)
                memory.append((before + self.bandwidth()) / 2)
                print(f"decoding {precision}: {reads[-1]:.1f} of {memory[-1]:.1f} GB/s", file=sys.stderr, flush=True)
            result[precision] = {"read_gb_s": summary(reads), "bandwidth_gb_s": summary(memory),
                                 "share": summary([read / can for read, can in zip(reads, memory)]),
                                 "tokens_per_s": summary([read * 1e9 / size for read in reads])}
        return result

    # -- supervised fine-tuning of SmolLM2-135M's shape
    def sft(self):
        row, steps, rows = "SFT 135M", self.a.sft_steps, 8
        records = json.loads(pathlib.Path(self.a.alpaca).read_text(encoding="utf-8"))[:rows * steps]
        (self.folder / "sft.json").write_text(json.dumps(records), encoding="utf-8")
        (self.folder / "first.json").write_text(json.dumps(records[:rows]), encoding="utf-8")
        common = ["--pretrained_model", self.a.model, "--val_split", 0, "--block_size", 1024, "--batch_size", rows,
                  "--packing", "none", "--learning_rate", 2e-5, "--weight_decay", 0, "--log_interval", 1, "--threads",
                  self.a.threads, "--save_interval", 10**6, "--json"]
        run([self.program, "--data", "first.json", "--max_iters", 1, "--out_dir", "first", *common], cwd=self.folder)
        losses = {"ours": self.steps_of("first", 0)[0]["loss"]}
        for number in range(self.a.rounds if self.a.sft_rounds is None else self.a.sft_rounds):
            for precision in ("fp32", "bf16"):
                _, peak = run([self.program, "--data", "sft.json", "--max_iters", steps, "--precision", precision, "--out_dir",
                               "sft", *common], cwd=self.folder)
                seconds = sum(line["step_ms"] for line in self.steps_of("sft", 0)) / 1e3
                shutil.rmtree(self.folder / "sft")
                self.add(row, "ours " + precision, rows * steps / seconds, peak)
            for pad in ("longest", "block"):
                count, width = (steps, rows) if pad == "longest" else (1, self.a.block_rows)
                out, peak = run([sys.executable, HERE / "sft_torch.py", self.a.model, self.folder / "sft.json", "--pad", pad,
                                 "--steps", count, "--batch_size", width, "--threads", 2])
                found = json.loads(out)
                if width == rows:
                    losses[pad] = found["losses"][0]
                who = f"padded to the {pad}" + (f", {width} rows" if width != rows else "")
                self.add(row, who, width * count / sum(found["seconds"]), peak)
        return losses

    def table(self):
        table = {row: {who: series.summary() for who, series in all_series.items()}
                 for row, all_series in self.series.items()}
        for row, all_series in self.series.items():
            for who, series in all_series.items():
                roof = all_series.get("roofline " + who[5:]) if who.startswith("ours ") else None
                if roof:
                    table[row][who]["of_roofline"] = summary([a / b for a, b in zip(series.rates, roof.rates)])
        return table


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
                  if line.startswith("model name")), platform.processor())
    flags = next(line for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("flags")).split()
    features = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return {"cpu": model, "cores": os.cpu_count(), "features": features}


def print_table(result):
    print(f"{result['machine']['cores']} cores of {result['machine']['cpu']} ({', '.join(result['machine']['features'])}), "
          f"load before {result['load_before']:.1f}\n")
    print("| model | | per second: median (min–max) | of the roofline, % | against the faster of PyTorch's | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    for row, found in result["rows"].items():
        theirs = {who: s for who, s in found.items() if not who.startswith(("ours", "roofline"))}
        best = max(theirs.values(), key=lambda s: s["median"], default=None)
        for who, s in found.items():
            of_roof = spread({key: 100 * part for key, part in s["of_roofline"].items()}, 0) if "of_roofline" in s else ""
            against = f"{s['median'] / best['median']:.2f}" if best and who.startswith("ours") else ""
            memory = "" if who.startswith("roofline") else f"{s['peak_bytes'] / 1e9:.2f}"
            digits = 2 if s["median"] < 100 else 0
            rate = f"{s['median']:,.{digits}f} ({s['min']:,.{digits}f}–{s['max']:,.{digits}f})"
            print(f"| {row} | {who} | {rate} | {of_roof} | {against} | {memory} |")
    if "sft_losses" in result:
        print("\nFirst loss of the same 8 examples:", ", ".join(f"{k} {v:.5f}" for k, v in result["sft_losses"].items()))
    if "decoding" in result:
        print("\n| decoding of SmolLM2-135M, one at a time | tokens/s | weights read, GB/s | memory, GB/s | share, % |")
        print("|---|---|---|---|---|")
        for precision, found in result["decoding"].items():
            share = {key: 100 * value for key, value in found["share"].items()}
            print(f"| {precision} | {spread(found['tokens_per_s'], 1)} | {spread(found['read_gb_s'], 1)} | "
                  f"{spread(found['bandwidth_gb_s'], 1)} | {spread(share, 0)} |")
    if "evaluation" in result:
        print("\n| evaluation | tokens | tokens/s | against training | start to first step, s |\n|---|---|---|---|---|")
        for name, found in result["evaluation"].items():
            for precision in ("fp32", "bf16"):
                f = found[precision]
                start = spread(found["start_up_s"]) if precision == "fp32" else ""
                print(f"| {name} {precision} | {f['tokens']:,} | {spread(f['tokens_per_s'], 0)} | {spread(f['per_training'])} | "
                      f"{start} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="plain text to train on")
    parser.add_argument("--folder", required=True, help="where the tokenizer is and runs are written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", default="124M,6 x 384,4 x 128")
    parser.add_argument("--model", help="a Hugging Face directory of SmolLM2-135M, for the SFT row")
    parser.add_argument("--alpaca", help="an alpaca file, for the SFT row")
    parser.add_argument("--sft_steps", type=int, default=3)
    parser.add_argument("--sft_rounds", type=int)
    parser.add_argument("--eval_seconds", type=float, default=4, help="how long an evaluation is to take, about")
    parser.add_argument("--block_rows", type=int, default=8, help="rows of the loop padded to the block (8 need 24 GB)")
    parser.add_argument("--out", help="the figures as JSON")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    result = {"machine": machine(), "load_before": os.getloadavg()[0]}
    result["products"] = {name: bench.pretraining(name) for name in arguments.models.split(",") if name}
    if arguments.model and arguments.alpaca:
        result["sft_losses"] = bench.sft()
        result["decoding"] = bench.decoding()
    for name in ("124M", "4 x 128"):
        if name in arguments.models:
            result.setdefault("evaluation", {})[name] = bench.evaluation(name)
    result["rows"] = bench.table()
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(result, indent=1), encoding="utf-8")
    print_table(result)


if __name__ == "__main__":
    main()
