#!/usr/bin/env python3
"""One process of the transformers side of bench/compare_cpu.py: supervised fine-tuning as people write it.

Loads a Hugging Face directory, renders the first examples of an alpaca file with its chat template, learns only the
assistant's tokens, and takes steps of 8 examples padded to the longest of them or to the block. The loss is
transformers' own (the model is given labels). Prints JSON: seconds of each timed step, the losses, peak resident
memory in bytes.

    bench/sft_torch.py MODEL_DIR alpaca.json --pad longest|block --steps 3 --threads 2
"""

import argparse
import json
import resource
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def encoded(tokenizer, record, block):
    user = record["instruction"] + ("\n" + record["input"] if record.get("input") else "")
    turns = [{"role": "user", "content": user}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(turns + [{"role": "assistant", "content": record["output"]}],
                                          return_dict=True)["input_ids"]
    assert whole[:len(prompt)] == prompt
    ends = len(whole) - (tokenizer.decode(whole[-1:]) == "\n")  # the newline after the turn is nobody's answer
    labels = [-100] * len(prompt) + whole[len(prompt):ends] + [-100] * (len(whole) - ends)
    return whole[:block], labels[:block]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--pad", choices=("longest", "block"), required=True)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--block_size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.learning_rate, betas=(0.9, 0.95), weight_decay=0.0,
                                  fused=True)
    with open(a.data, encoding="utf-8") as file:
        records = json.load(file)
    seconds, losses, tokens = [], [], []
    for step in range(a.warmup + a.steps):
        rows = [encoded(tokenizer, r, a.block_size) for r in records[step * a.batch_size:(step + 1) * a.batch_size]]
        width = a.block_size if a.pad == "block" else max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for row, (row_ids, row_labels) in enumerate(rows):
            ids[row, :len(row_ids)] = torch.tensor(row_ids)
            mask[row, :len(row_ids)] = 1
            labels[row, :len(row_ids)] = torch.tensor(row_labels)
        begin = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        losses.append(loss.detach())
        tokens.append(int(mask.sum()))
    print(json.dumps({"seconds": seconds[a.warmup:], "losses": [float(v) for v in losses], "tokens": tokens,
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
