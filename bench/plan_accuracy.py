#!/usr/bin/env python3
"""What `train_sft plan` predicts against what the run then does, on this machine.

    .venv/bin/python bench/plan_accuracy.py build/train_sft --text tinyshakespeare.txt [--model DIR --alpaca FILE]
                                            [--rounds 5] [--threads 2]

For each configuration, round after round: a plan, then the run itself, so that both see the same neighbours. A step's
time is the median of the run's steps after the first, memory the process's largest resident set. Prints one JSON line a
configuration: medians of predicted, measured and their ratio, with the least and the most.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import tempfile

from compare_cpu import run as measured, summary


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--text", required=True)
    parser.add_argument("--model", help="a Hugging Face directory to fine-tune")
    parser.add_argument("--alpaca", help="instructions to fine-tune it on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def configurations(args):
    char = ["--data", os.path.abspath(args.text), "--tokenizer_type", "char"]
    yield "4 layers of 128, 12 x 64", [*char, "--n_layer", 4, "--n_head", 4, "--n_embd", 128, "--block_size", 64, "--batch_size", 12,
                                       "--max_iters", 400]
    yield "6 layers of 384, 8 x 256", [*char, "--n_layer", 6, "--n_head", 6, "--n_embd", 384, "--block_size", 256, "--batch_size", 8,
                                       "--max_iters", 20]
    if args.model and args.alpaca:
        tuned = ["--pretrained_model", os.path.abspath(args.model), "--data", os.path.abspath(args.alpaca), "--packing", "best_fit",
                 "--block_size", 512, "--batch_size", 4, "--max_iters", 6]
        yield "SmolLM2-135M, packed rows of 512", tuned
        yield "SmolLM2-135M, the same with LoRA", [*tuned, "--lora_rank", 16]


class Run:
    def __init__(self, args, folder):
        self.args, self.folder = args, pathlib.Path(folder)
        self.program = os.path.abspath(args.program)

    def start(self, *command):
        return measured([self.program, *command], cwd=self.folder)

    def pair(self, options):
        common = [*options, "--threads", self.args.threads, "--eval_interval", -1]
        common += ["--save_interval", options[options.index("--max_iters") + 1] // 2]
        plan = json.loads(self.start("plan", *common, "--json")[0])
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        _, peak = self.start(*common, "--log_interval", 1, "--out_dir", "out")
        steps = [json.loads(line) for line in (self.folder / "out" / "metrics.jsonl").read_text().splitlines()]
        stored = sum(path.stat().st_size for path in (self.folder / "out" / "latest").glob("model*.safetensors"))
        return {"step_ms": (plan["step_ms"], statistics.median(step["step_ms"] for step in steps[1:])),
                "memory_bytes": (plan["memory_bytes"]["total"], peak),
                "checkpoint_bytes": (plan["checkpoint_bytes"], stored),
                "data_wait": (0, sum(step["data_wait_ms"] for step in steps[1:]) / sum(step["step_ms"] for step in steps[1:]))}


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(args, folder)
        for name, options in configurations(args):
            pairs = [run.pair(options) for _ in range(args.rounds)]
            result = {"configuration": name, "rounds": args.rounds}
            for what in ("step_ms", "memory_bytes"):
                planned, measured = zip(*(pair[what] for pair in pairs))
                result[what] = {"planned": statistics.median(planned), "measured": statistics.median(measured),
                                "ratio": summary([p / m for p, m in zip(planned, measured)])}
            planned, measured = pairs[0]["checkpoint_bytes"]
            result["weights_bytes"] = {"planned": planned, "measured": measured}
            result["data_wait_share"] = statistics.median(pair["data_wait"][1] for pair in pairs)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
