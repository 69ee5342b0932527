#!/usr/bin/env python3
"""Supervised fine-tuning of a pretrained model on alpaca examples, and what other tools make of the result.

    scripts/fetch_smollm2.sh
    .venv/bin/python bench/sft_real_model.py build/train_sft --data ../shared/data/alpaca_en_demo.json \\
        [--model MODEL.gguf] [--train 900] [--held_out 99] [--threads N] [--lora_rank R] [-- more train_sft options]

The first --train examples are trained on for one epoch, the last --held_out are evaluated before and after. Prints
held-out loss before and after, time, tokens/s and peak memory; then loads the checkpoint's directory in
transformers and its GGUF export in llama.cpp and compares logits and the greedy reply with ours.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUESTION = "Give three tips for staying healthy."


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default=str(ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--train", type=int, default=900)
    parser.add_argument("--held_out", type=int, default=99)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--lora_rank", type=int, default=0)
    parser.add_argument("--learning_rate", default=None)
    parser.add_argument("--no_tools", action="store_true", help="leave transformers and llama.cpp out")
    parser.add_argument("more", nargs="*")
    return parser.parse_args()


class Work:
    def __init__(self, args, folder):
        self.args, self.folder = args, pathlib.Path(folder)
        self.program = os.path.abspath(args.program)

    def run(self, *command):
        """The JSON it prints, the seconds it took and its peak memory in GiB; its log goes to stderr."""
        start = time.perf_counter()
        process = subprocess.Popen([self.program, *map(str, command), "--json"], cwd=self.folder,
                                   stdout=subprocess.PIPE, text=True)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{' '.join(map(str, command))}: exit status {os.waitstatus_to_exitcode(status)}")
        return json.loads(out), time.perf_counter() - start, usage.ru_maxrss / 2**20

    def held_out_loss(self, checkpoint):
        result, _, _ = self.run("eval", "--checkpoint", checkpoint, "--data", "held_out.json", "--block_size", 1024,
                             "--batch_size", 2, "--threads", self.args.threads)
        return result["loss"]

    def train(self):
        lora = ["--lora_rank", self.args.lora_rank] if self.args.lora_rank else []
        rate = self.args.learning_rate or ("2e-4" if lora else "2e-5")
        return self.run("--pretrained_model", "base", "--data", "train.json", "--val_data", "held_out.json",
                        "--epochs", 1, "--block_size", 1024, "--batch_size", 2, "--target_examples_per_step", 16,
                        "--learning_rate", rate, "--eval_interval", 0, "--threads", self.args.threads, "--log_interval", 1,
                        "--out_dir", "sft", *lora, *self.args.more)


def relative_l2(got, want):
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def compare_with_tools(work, checkpoint):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True,
                                           return_dict=True)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0].numpy()
        out = model.generate(torch.tensor([prompt]), max_new_tokens=48, do_sample=False)[0, len(prompt):].tolist()
    theirs = tokenizer.decode(out, skip_special_tokens=True).strip()
    ours, _, _ = work.run("chat", "--checkpoint", checkpoint, "--prompt", QUESTION, "--temperature", 0, "--max_new_tokens",
                       48)
    result = {"reply": ours["reply"].strip(), "transformers_reply_equal": theirs == ours["reply"].strip()}
    merge = ["--merge"] if work.args.lora_rank else []
    work.run("export", "--checkpoint", checkpoint, "--format", "gguf", "--dtype", "bf16", "--out", "sft.gguf", *merge)
    try:
        import llama_cpp
    except ImportError:
        return {**result, "llama.cpp": "not installed"}
    llama = llama_cpp.Llama(str(work.folder / "sft.gguf"), n_ctx=512, logits_all=True, verbose=False)
    llama.eval(prompt)
    result["llama_logits_relative_l2"] = relative_l2(np.array(llama.scores[:len(prompt)]), logits)
    llama.reset()
    reply = llama.create_chat_completion([{"role": "user", "content": QUESTION}], temperature=0.0, max_tokens=48)
    said = reply["choices"][0]["message"]["content"].strip()
    result["llama_reply_equal"] = said == ours["reply"].strip()
    if not result["llama_reply_equal"]:
        result["llama_reply"] = said
    return result


def main():
    args = arguments()
    records = json.loads(pathlib.Path(args.data).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        work = Work(args, folder)
        for name, part in (("train", records[:args.train]), ("held_out", records[len(records) - args.held_out:])):
            (work.folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        work.run("import", "--from", os.path.abspath(args.model), "--out", "base")
        result = {"held_out_loss_before": work.held_out_loss("base")}
        summary, seconds, peak = work.train()
        result["train_s"] = round(seconds, 1)
        result["tokens_per_s"] = summary["tokens_per_s"]
        result["steps"] = summary["step"]
        result["peak_memory_gib"] = round(peak, 2)
        checkpoint = os.path.realpath(work.folder / "sft" / "latest")
        result["held_out_loss_after"] = work.held_out_loss(checkpoint)
        result["checkpoint_mb"] = round(sum(f.stat().st_size for f in pathlib.Path(checkpoint).iterdir()) / 1e6, 1)
        if not args.no_tools:
            result.update(compare_with_tools(work, checkpoint))
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
