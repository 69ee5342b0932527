"""Tiny random models in the formats people have, made by transformers, gguf and torch.

`transformers_model(kind)` is the reference; the writers below put the same weights into another format
in ways of their own, independent of the program under test.
"""

import json

import numpy as np
import torch
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

LLAMA = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GPT2 = dict(vocab_size=96, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
KINDS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "llama": (LlamaForCausalLM, LlamaConfig(**LLAMA, rope_theta=5e4)),
    "llama_tied": (LlamaForCausalLM, LlamaConfig(**LLAMA, tie_word_embeddings=True, rms_norm_eps=1e-5)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**LLAMA, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**LLAMA, head_dim=32, tie_word_embeddings=True)),
}


def transformers_model(kind, seed=3):
    """Weights that are bfloat16 numbers, so that no format of at least that precision changes them."""
    model_class, config = KINDS[kind]
    model = model_class(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        gain = parameter.dim() == 1 and bool((parameter == 1).all())
        noise = 0.15 * torch.randn(parameter.shape, generator=generator)
        parameter.data = ((1.0 if gain else 0.0) + noise).bfloat16().float()
    return model


def permuted(weight, heads):
    """Rows of q and k as llama.cpp's rotary kernel wants them: (half, i) of each head becomes (i, half)."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).transpose(1, 2).reshape(shape)


LLAMA_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
              "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
             "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm"}


def gguf_tensors(model):
    """(name, torch tensor) as llama.cpp names and orders them."""
    config = model.config
    names = {**LLAMA_NAMES, **GPT2_NAMES}
    for name, value in model.state_dict().items():
        stem, kind = name.rsplit(".", 1)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if stem in TOP_NAMES:
            yield f"{TOP_NAMES[stem]}.{kind}", value
            continue
        layer, rest = stem.removeprefix("model.layers.").removeprefix("transformer.h.").split(".", 1)
        if config.model_type == "llama" and rest == "self_attn.q_proj":
            value = permuted(value, config.num_attention_heads)
        if config.model_type == "llama" and rest == "self_attn.k_proj":
            value = permuted(value, config.num_key_value_heads)
        if config.model_type == "gpt2" and kind == "weight" and value.dim() == 2:
            value = value.T
        yield f"blk.{layer}.{names[rest]}.{kind}", value


def write_gguf(model, path, quantization="F32", **more):
    import gguf
    config = model.config
    writer = gguf.GGUFWriter(str(path), config.model_type)
    llama = config.model_type != "gpt2"
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_feed_forward_length(config.intermediate_size if llama else 4 * config.n_embd)
    if llama:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(head_dim)
        if config.model_type == "qwen3":
            writer.add_key_length(head_dim)
            writer.add_value_length(head_dim)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    for key, value in more.items():
        writer.add_uint32(key, value)
    kind = gguf.GGMLQuantizationType[quantization]
    dequantized = {}
    for name, value in gguf_tensors(model):
        value = np.ascontiguousarray(value.numpy())
        own = kind if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(value, own)
        dequantized[name] = gguf.quants.dequantize(stored, own)
        writer.add_tensor(name, stored, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dequantized


def save_huggingface(model, directory, dtype=torch.float32, shards=None):
    model.to(dtype).save_pretrained(directory, max_shard_size=shards or "5GB")
    model.float()
    if shards:
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1, "not sharded"
