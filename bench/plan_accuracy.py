#!/usr/bin/env python3
"""What `train_sft plan` predicts against what the run then does, on this machine.

    .venv/bin/python bench/plan_accuracy.py build/train_sft --text tinyshakespeare.txt [--model DIR --alpaca FILE]
                                            [--rounds 5] [--threads 2] [--procs 2 [--reduce_dtype bf16] [--shard optimizer]]

For each configuration, round after round: a plan, then the run itself, so that both see the same neighbours. A step's
time is the median of the run's steps after the first, memory the process's largest resident set. Prints one JSON line a
configuration: medians of predicted, measured and their ratio, with the least and the most.

With --procs N the run's processes share the cores (--threads is then of each), and before each round Gloo's all-reduce of
64 MB between N processes is timed, by PyTorch: `plan` takes its speed as --link_gbps. Beside step_ms stands the same with
one process that does all the ranks' rows with all their threads: what the processes gain or cost.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import shutil
import socket
import statistics
import sys
import tempfile
import time

from compare_cpu import run as measured, summary


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--text", required=True)
    parser.add_argument("--model", help="a Hugging Face directory to fine-tune")
    parser.add_argument("--alpaca", help="instructions to fine-tune it on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of each process; default: an even share of the cores")
    parser.add_argument("--procs", type=int, default=1)
    parser.add_argument("--reduce_dtype", default="auto")
    parser.add_argument("--shard", default="none")
    args = parser.parse_args()
    args.threads = args.threads or max(1, os.cpu_count() // args.procs)
    return args


# In processes of their own alone: a program that is started counts what its starter has resident as its own peak.
def all_reduces(rank, procs, port, found):
    import torch
    import torch.distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=procs)
    values = torch.zeros(1 << 24)
    seconds = []
    for _ in range(6):
        dist.barrier()
        begin = time.monotonic()
        dist.all_reduce(values)
        seconds.append(time.monotonic() - begin)
    if rank == 0:
        found.put(statistics.median(seconds[1:]))
    dist.destroy_process_group()


def link_gbps(procs):
    """Gbit/s that each process sends in a ring, as an all-reduce between so many reaches it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    team = [context.Process(target=all_reduces, args=(rank, procs, port, found)) for rank in range(procs)]
    for process in team:
        process.start()
    for process in team:
        process.join()
        if process.exitcode != 0:
            sys.exit(f"an all-reduce between {procs} processes failed")
    return 2 * (procs - 1) / procs * (4 << 24) * 8 / found.get() / 1e9


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


def tensor_bytes(path):
    """What is stored beside the header: 8 bytes with its length, and the header."""
    with open(path, "rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


class Run:
    def __init__(self, args, folder):
        self.args, self.folder = args, pathlib.Path(folder)
        self.program = os.path.abspath(args.program)

    def start(self, *command):
        return measured([self.program, *command], cwd=self.folder)

    def train(self, *options):
        """(median milliseconds of a step, peak memory, share of the time spent waiting for rows)"""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        _, peak = self.start(*options, "--log_interval", 1, "--out_dir", "out")
        lines = (self.folder / "out" / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines][1:]
        waited = sum(step["data_wait_ms"] for step in steps) / sum(step["step_ms"] for step in steps)
        return statistics.median(step["step_ms"] for step in steps), peak, waited

    def pair(self, options):
        common = [*options, "--eval_interval", -1, "--save_interval", options[options.index("--max_iters") + 1] // 2]
        own = ["--threads", self.args.threads]
        found = {}
        if self.args.procs > 1:
            found["link_gbps"] = link_gbps(self.args.procs)
            alone = self.train(*common, "--threads", self.args.threads * self.args.procs, "--gpus", self.args.procs)
            found["alone_ms"] = alone[0]
            own += ["--procs", self.args.procs, "--reduce_dtype", self.args.reduce_dtype, "--shard", self.args.shard]
        link = ["--link_gbps", found["link_gbps"]] if found else []
        plan = json.loads(self.start("plan", *common, *own, *link, "--json")[0])
        step_ms, peak, waited = self.train(*common, *own)
        stored = sum(tensor_bytes(path) for path in (self.folder / "out" / "latest").glob("*model*.safetensors"))
        found |= {"step_ms": (plan["step_ms"], step_ms), "checkpoint_bytes": (plan["checkpoint_bytes"], stored), "data_wait": waited}
        if self.args.procs == 1:  # else the peak is that of the process that starts the others
            found["memory_bytes"] = (plan["memory_bytes"]["total"], peak)
        else:
            found["exposed_ms"] = plan["communication"]["exposed_ms"]
        return found


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(args, folder)
        for name, options in configurations(args):
            pairs = [run.pair(options) for _ in range(args.rounds)]
            result = {"configuration": name, "rounds": args.rounds, "procs": args.procs, "threads": args.threads}
            for what in ("step_ms", "memory_bytes"):
                if what not in pairs[0]:
                    continue
                planned, measured_of = zip(*(pair[what] for pair in pairs))
                result[what] = {"planned": statistics.median(planned), "measured": statistics.median(measured_of),
                                "ratio": summary([p / m for p, m in zip(planned, measured_of)])}
            for what in ("link_gbps", "exposed_ms"):
                if what in pairs[0]:
                    result[what] = summary([pair[what] for pair in pairs])
            if args.procs > 1:
                result["throughput_of_one_process"] = summary([pair["alone_ms"] / pair["step_ms"][1] for pair in pairs])
            planned, stored = pairs[0]["checkpoint_bytes"]
            result["weights_bytes"] = {"planned": planned, "measured": stored}
            result["data_wait_share"] = statistics.median(pair["data_wait"] for pair in pairs)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
