"""Tiny random models of transformers with their logits and gradients, for transformers_test.cpp.

    python make_transformers_models.py OUT_DIR

Each OUT_DIR/<name>/ holds config.json and model.safetensors as transformers saves them, and
expected.safetensors: tokens [B, T], loss (sum over the next tokens), logits [B, T, V] and, for every
saved parameter, grad.<name>.
"""

import os
import sys

import torch
from safetensors.torch import save_file
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

LLAMA = dict(vocab_size=67, hidden_size=48, intermediate_size=120, num_hidden_layers=3,
             num_attention_heads=6, max_position_embeddings=32, bos_token_id=1, eos_token_id=2)
GPT2 = dict(vocab_size=71, n_positions=32, n_embd=40, n_layer=3, n_head=5, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2)
MODELS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "gpt2_untied": (GPT2LMHeadModel, GPT2Config(**GPT2, tie_word_embeddings=False, n_inner=90)),
    "llama": (LlamaForCausalLM, LlamaConfig(**LLAMA, num_key_value_heads=2)),
    "llama_tied": (LlamaForCausalLM,
                   LlamaConfig(**LLAMA, num_key_value_heads=6, tie_word_embeddings=True,
                               rope_theta=500000.0, rms_norm_eps=1e-6)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**LLAMA, num_key_value_heads=3,
                                            tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**LLAMA, num_key_value_heads=3, head_dim=14,
                                            rope_theta=1e6)),
    "wide_llama": (LlamaForCausalLM, LlamaConfig(**LLAMA, num_key_value_heads=2, head_dim=12)),
}


def randomise(model, generator):
    """Biases and gains too, and larger than usual: every part of the model must matter."""
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        gain = parameter.dim() == 1 and bool((parameter == 1).all())
        parameter.data = (1.0 if gain else 0.0) + 0.15 * noise


def write(directory, model_class, config, seed):
    generator = torch.Generator().manual_seed(seed)
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    randomise(model, generator)
    model.save_pretrained(directory, safe_serialization=True)

    tokens = torch.randint(config.vocab_size, (3, 29), generator=generator)
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(),
                                             reduction="sum")
    loss.backward()
    expected = {"tokens": tokens.to(torch.int32), "logits": logits.detach().contiguous(),
                "loss": loss.detach().reshape(1)}
    for name, parameter in model.named_parameters():
        expected["grad." + name] = parameter.grad.contiguous()
    save_file(expected, os.path.join(directory, "expected.safetensors"))


def main():
    torch.manual_seed(0)
    for seed, (name, (model_class, config)) in enumerate(MODELS.items()):
        write(os.path.join(sys.argv[1], name), model_class, config, seed)
        print(name)


if __name__ == "__main__":
    main()
