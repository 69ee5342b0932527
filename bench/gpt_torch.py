#!/usr/bin/env python3
"""One process of the PyTorch side of bench/compare_cpu.py: training steps of GPT-2 as published.

The model of bench/shakespeare_torch.py (scaled_dot_product_attention, fused AdamW, gradients dropped rather than
zeroed, nothing read back inside the loop), eager or through torch.compile, on random token ids. Prints JSON:
seconds of each timed step, the loss, peak resident memory in bytes.

    bench/gpt_torch.py --n_layer 12 --n_head 12 --n_embd 768 --vocab_size 50304 --block_size 1024 --batch_size 4 \\
        --threads 2 --warmup 1 --steps 3 [--compile]
"""

import argparse
import json
import resource
import time

import torch

from shakespeare_torch import GPT, make_optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("n_layer", "n_head", "n_embd", "vocab_size", "block_size", "batch_size", "threads", "warmup", "steps"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--grad_clip", type=float, default=1.0)
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--beta1", type=float, default=0.9)
    parser.add_argument("--beta2", type=float, default=0.95)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = GPT(a.vocab_size, a.block_size, a.n_layer, a.n_head, a.n_embd)
    optimizer = make_optimizer(model, a)
    forward = torch.compile(model) if a.compile else model
    seconds, losses = [], []
    for _ in range(a.warmup + a.steps):
        ids = torch.randint(a.vocab_size, (a.batch_size, a.block_size + 1))
        begin = time.perf_counter()
        loss = forward(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), a.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        losses.append(loss.detach())
    print(json.dumps({"seconds": seconds[a.warmup:], "loss": float(losses[-1]),
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
