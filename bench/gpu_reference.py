#!/usr/bin/env python3
"""The PyTorch side of scripts/gpu_check.sh: training steps of the models that gpu_bench trains, on the same GPU.

    bench/gpu_reference.py MODEL ROWS STEPS [--compile]     MODEL: 124m, 112m, 1.2b

As published PyTorch trainers do it: parameters in float32, bfloat16 by autocast, scaled_dot_product_attention,
fused AdamW, gradients dropped rather than zeroed, gradient norm clipped, nothing read back inside the loop; eager
or through torch.compile. Random token ids. Prints one JSON object like gpu_bench's.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from shakespeare_torch import GPT  # noqa: E402

MODELS = {  # vocabulary, block, layers, heads, width
    "124m": (50304, 1024, 12, 12, 768),
    "112m": (32768, 2048, 12, 12, 768),
    "1.2b": (32000, 1024, 22, 16, 2048),
}


class LlamaBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        hidden = (8 * width // 3 + 63) // 64 * 64
        self.norm_1, self.norm_2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cosines, sines):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in self.qkv(self.norm_1(x)).split(C, dim=2))

        def turned(t):
            a, b = t.chunk(2, dim=-1)
            return torch.cat((a * cosines - b * sines, b * cosines + a * sines), dim=-1).to(t.dtype)

        y = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, vocabulary, block, layers, heads, width):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(LlamaBlock(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        half = width // heads // 2
        angles = torch.outer(torch.arange(block), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x, self.cosines, self.sines)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("rows", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    vocabulary, block, *_ = MODELS[arguments.model]
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    with torch.device("cuda"):
        model = (Llama if arguments.model == "1.2b" else GPT)(*MODELS[arguments.model])
        ids = torch.randint(vocabulary, (4, arguments.rows, block + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if arguments.compile else model

    def step(number):
        batch = ids[number % 4]
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    for number in range(5):
        loss = step(number)
    rates = []
    for _ in range(5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        count = max(arguments.steps // 5, 1)
        for number in range(count):
            loss = step(number)
        torch.cuda.synchronize()
        rates.append(arguments.rows * block * count / (time.perf_counter() - begin))
    print(json.dumps({
        "model": arguments.model, "rows": arguments.rows, "compile": arguments.compile,
        "tokens_per_s": {"median": statistics.median(rates), "min": min(rates), "max": max(rates)},
        "peak_bytes": torch.cuda.max_memory_reserved(), "loss": float(loss), "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__}))


if __name__ == "__main__":
    main()
