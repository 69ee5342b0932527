#!/usr/bin/env python3
"""The model of --config shakespeare_char in PyTorch eager: what train_sft is measured against.

Timing, on its own data order and initialisation, as nanoGPT publishes it (random windows, AdamW
fused, gradients dropped rather than zeroed, nothing read back from the device inside the loop):

    bench/shakespeare_torch.py --data input.txt --threads 2 [--vocab_size N] [--out result.json]

Comparison, from our initial weights and our batches (see tests/golden):

    bench/shakespeare_torch.py --init CHECKPOINT --batches batches.jsonl --steps 50 --out steps.jsonl

The model is GPT-2 as our preset has it: learned positions, LayerNorm, biases, GELU by tanh, tied
embeddings, scaled_dot_product_attention. The schedule is ours too: warm-up (s+1)/W, then cosine to
min_lr at the last step.
"""

import argparse
import json
import math
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attn_out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln_1(x)).split(C, dim=2)
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_out(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, vocab_size, block_size, layers, heads, width):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(block_size, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("attn_out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def load_huggingface(directory):
    """A GPT-2 checkpoint directory into the model above (its linear weights are stored transposed)."""
    from safetensors.torch import load_file

    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    assert config["model_type"] == "gpt2" and config["activation_function"] == "gelu_new", config
    model = GPT(config["vocab_size"], config["n_positions"], config["n_layer"], config["n_head"], config["n_embd"])
    stored = load_file(os.path.join(directory, "model.safetensors"))
    stored = {name.removeprefix("transformer."): value.float() for name, value in stored.items()}
    ours = {"tokens.weight": stored["wte.weight"], "positions.weight": stored["wpe.weight"],
            "ln_f.weight": stored["ln_f.weight"], "ln_f.bias": stored["ln_f.bias"]}
    names = {"ln_1": "ln_1", "attn.c_attn": "qkv", "attn.c_proj": "attn_out", "ln_2": "ln_2",
             "mlp.c_fc": "up", "mlp.c_proj": "down"}
    for layer in range(config["n_layer"]):
        for theirs, name in names.items():
            weight = stored[f"h.{layer}.{theirs}.weight"]
            ours[f"blocks.{layer}.{name}.weight"] = weight.t() if weight.dim() == 2 else weight
            ours[f"blocks.{layer}.{name}.bias"] = stored[f"h.{layer}.{theirs}.bias"]
    model.load_state_dict(ours)
    return model


def make_optimizer(model, arguments):
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": arguments.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(arguments.beta1, arguments.beta2),
                             eps=1e-8, fused=True)


def learning_rate_at(step, arguments):
    if step < arguments.warmup_iters:
        return arguments.learning_rate * (step + 1) / arguments.warmup_iters
    progress = (step - arguments.warmup_iters) / (arguments.max_iters - 1 - arguments.warmup_iters)
    return arguments.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (arguments.learning_rate - arguments.min_lr)


def train_step(model, optimizer, tokens, targets, step, arguments):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, arguments)
    loss = model(tokens, targets)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), arguments.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach(), norm


def compare(arguments):
    """Replays our batches, writes loss and gradient norm of each step."""
    model = load_huggingface(arguments.init)
    optimizer = make_optimizer(model, arguments)
    with open(arguments.batches, encoding="utf-8") as batches, open(arguments.out, "w", encoding="utf-8") as out:
        for step, line in zip(range(arguments.steps), batches):
            batch = json.loads(line)
            tokens, targets = (torch.tensor(batch[key]).view(batch["rows"], -1) for key in ("tokens", "targets"))
            loss, norm = train_step(model, optimizer, tokens, targets, step, arguments)
            out.write(json.dumps({"step": step + 1, "loss": loss.item(), "grad_norm": norm.item(),
                                  "lr": learning_rate_at(step, arguments)}) + "\n")


@torch.no_grad()
def validation_loss(model, ids, arguments):
    """Over the whole of the validation text, in rows of block_size."""
    T, rows = arguments.block_size, (len(ids) - 1) // arguments.block_size
    x, y = ids[: rows * T].view(rows, T), ids[1 : rows * T + 1].view(rows, T)
    total = 0.0
    for first in range(0, rows, 128):
        part = slice(first, min(first + 128, rows))
        total += model(x[part], y[part]).item() * (part.stop - part.start)
    return total / rows


def benchmark(arguments):
    with open(arguments.data, encoding="utf-8") as file:
        text = file.read()
    alphabet = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([alphabet[c] for c in text])
    limit = int(0.9 * len(ids))
    train, validation = ids[:limit], ids[limit:]
    model = GPT(max(arguments.vocab_size, len(alphabet)), arguments.block_size, arguments.n_layer, arguments.n_head,
                arguments.n_embd)
    optimizer = make_optimizer(model, arguments)
    B, T = arguments.batch_size, arguments.block_size
    started = time.perf_counter()
    evaluating, losses = 0.0, []
    for step in range(arguments.max_iters):
        if arguments.eval_interval > 0 and step > 0 and step % arguments.eval_interval == 0:
            before = time.perf_counter()
            validation_loss(model, validation, arguments)
            evaluating += time.perf_counter() - before
        starts = torch.randint(len(train) - T, (B,)).tolist()
        tokens = torch.stack([train[i : i + T] for i in starts])
        targets = torch.stack([train[i + 1 : i + 1 + T] for i in starts])
        loss, _ = train_step(model, optimizer, tokens, targets, step, arguments)
        losses.append(loss)
    before = time.perf_counter()
    final = validation_loss(model, validation, arguments)
    now = time.perf_counter()
    evaluating += now - before
    result = {"threads": torch.get_num_threads(), "steps": arguments.max_iters, "train_s": now - started - evaluating,
              "eval_s": evaluating, "total_s": now - started, "val_loss": final,
              "train_loss": torch.stack(losses[-50:]).mean().item()}
    print(json.dumps(result))
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(result, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--init", help="our checkpoint directory at step 0")
    parser.add_argument("--batches", help="our batches, a JSON object a line: tokens, targets, rows")
    parser.add_argument("--out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1337)
    for name, default in (("vocab_size", 0), ("n_layer", 4), ("n_head", 4), ("n_embd", 128), ("block_size", 64),
                          ("batch_size", 12), ("max_iters", 2000), ("warmup_iters", 100), ("eval_interval", 0),
                          ("steps", 50)):
        parser.add_argument("--" + name, type=int, default=default)
    for name, default in (("learning_rate", 1e-3), ("min_lr", 1e-4), ("weight_decay", 0.1), ("beta1", 0.9),
                          ("beta2", 0.99), ("grad_clip", 1.0)):
        parser.add_argument("--" + name, type=float, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if arguments.batches:
        compare(arguments)
    elif arguments.data:
        benchmark(arguments)
    else:
        parser.error("give --data (timing) or --init and --batches (comparison)")


if __name__ == "__main__":
    main()
