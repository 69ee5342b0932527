"""Models in and out: what `import` makes of other tools' files and `export` writes for them, judged by those
tools."""

import json
import struct

import numpy as np
import pytest
import torch
from conftest import as_json, change_json, train_sft
from model_files import KINDS, gguf_tensors, save_huggingface, transformers_model, write_gguf
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TOKENS = torch.arange(2 * 40).reshape(2, 40) * 7 % 96


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def loaded(directory):
    """As transformers sees it: every weight must be there, in fp32."""
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


def assert_same_model(directory, reference):
    ours, theirs = loaded(directory).state_dict(), reference.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert torch.equal(logits(loaded(directory)), logits(reference))


@pytest.mark.parametrize("dtype,stored", [(torch.float32, "F32"), (torch.float16, "F16"), (torch.bfloat16, "BF16")])
@pytest.mark.parametrize("kind", KINDS)
def test_hugging_face_directories(tmp_path, kind, dtype, stored):
    reference = transformers_model(kind)
    save_huggingface(reference, tmp_path / "hf", dtype)
    said = as_json("import", "--from", "hf", "--out", "ours", cwd=tmp_path)
    assert said["dtype"] == stored and said["params"] == sum(p.numel() for p in reference.parameters())
    expected = transformers_model(kind)
    for parameter in expected.parameters():
        parameter.data = parameter.data.to(dtype).float()
    assert_same_model(tmp_path / "ours", expected)


def test_shards_are_put_together(tmp_path):
    reference = transformers_model("llama")
    save_huggingface(reference, tmp_path / "hf", shards="60KB")
    train_sft("import", "--from", "hf", "--out", "ours", cwd=tmp_path)
    assert_same_model(tmp_path / "ours", reference)


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("kind", KINDS)
def test_gguf_files(tmp_path, kind, quantization):
    reference = transformers_model(kind)
    dequantized = write_gguf(reference, tmp_path / "model.gguf", quantization)
    train_sft("import", "--from", "model.gguf", "--out", "ours", cwd=tmp_path)
    ours = loaded(tmp_path / "ours")
    for name, value in gguf_tensors(ours):
        assert np.array_equal(value.numpy(), dequantized[name]), name
    if quantization in ("F32", "BF16"):
        assert torch.equal(logits(ours), logits(reference))


def exported_gguf(path):
    """name → values, as gguf-py reads them."""
    import gguf
    return {t.name: (t.tensor_type.name, gguf.quants.dequantize(t.data, t.tensor_type)) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_exported_gguf_holds_the_weights_in_llama_cpps_order(tmp_path, kind, dtype):
    import gguf
    reference = transformers_model(kind)
    save_huggingface(reference, tmp_path / "hf")
    train_sft("export", "--checkpoint", "hf", "--format", "gguf", "--dtype", dtype, "--out", "ours.gguf", cwd=tmp_path)
    ours = exported_gguf(tmp_path / "ours.gguf")
    theirs = dict(gguf_tensors(reference))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        kept = value.dim() == 1 or name == "position_embd.weight"
        wanted = gguf.GGMLQuantizationType["F32" if kept else dtype.upper()]
        stored = gguf.quants.quantize(np.ascontiguousarray(value.numpy()), wanted)
        assert ours[name][0] == wanted.name
        assert np.array_equal(ours[name][1], gguf.quants.dequantize(stored, wanted)), name
    train_sft("import", "--from", "ours.gguf", "--out", "again", cwd=tmp_path)
    if dtype in ("f32", "bf16"):
        assert_same_model(tmp_path / "again", reference)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_exported_hugging_face_directories_load(tmp_path, kind, dtype):
    reference = transformers_model(kind)
    write_gguf(reference, tmp_path / "model.gguf")
    train_sft("import", "--from", "model.gguf", "--out", "ours", cwd=tmp_path)
    train_sft("export", "--checkpoint", "ours", "--format", "hf", "--dtype", dtype, "--out", "hf", cwd=tmp_path)
    assert_same_model(tmp_path / "hf", reference)


def nanogpt_state(model):
    """The state dict nanoGPT's model.py would have."""
    return {name: value.T.contiguous() if value.dim() == 2 and ".c_" in name else value
            for name, value in model.state_dict().items()}


def test_pt_files_go_both_ways(tmp_path):
    reference = transformers_model("gpt2")
    config = reference.config
    arguments = dict(n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd, vocab_size=config.vocab_size,
                     block_size=config.n_positions, bias=True, dropout=0.0)
    torch.save({"model": nanogpt_state(reference), "model_args": arguments, "iter_num": 3}, tmp_path / "ckpt.pt")
    train_sft("import", "--from", "ckpt.pt", "--out", "ours", cwd=tmp_path)
    assert_same_model(tmp_path / "ours", reference)
    train_sft("export", "--checkpoint", "ours", "--format", "pt", "--out", "ours.pt", cwd=tmp_path)
    ours = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert ours["model_args"] == arguments
    for name, value in nanogpt_state(reference).items():
        assert torch.equal(ours["model"][name], value), name


def test_what_a_pt_file_cannot_express_is_said(tmp_path):
    save_huggingface(transformers_model("llama"), tmp_path / "hf")
    said = train_sft("export", "--checkpoint", "hf", "--format", "pt", "--out", "x.pt", cwd=tmp_path, code=4)
    assert "family" in said and not (tmp_path / "x.pt").exists()
    train_sft("export", "--checkpoint", "hf", "--format", "hf", "--dtype", "q8_0", "--out", "x", cwd=tmp_path, code=2)
    train_sft("export", "--checkpoint", "hf", "--format", "zip", "--out", "x", cwd=tmp_path, code=2)
    train_sft("export", "--checkpoint", "hf", "--format", "hf", "--out", "hf", cwd=tmp_path, code=2)


def test_a_checkpoint_that_was_damaged_is_not_exported(tmp_path):
    save_huggingface(transformers_model("llama"), tmp_path / "hf")
    train_sft("import", "--from", "hf", "--out", "ours", cwd=tmp_path)
    path = tmp_path / "ours" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "model.safetensors" in train_sft("export", "--checkpoint", "ours", "--format", "hf", "--out", "x", cwd=tmp_path,
                                            code=4)


def test_the_imported_model_trains(tmp_path, chat_file):
    reference = transformers_model("llama")
    save_huggingface(reference, tmp_path / "hf")
    train_sft("import", "--from", "hf", "--out", "ours", cwd=tmp_path)
    said = train_sft("--pretrained_model", "ours", "--data", chat_file, "--max_iters", 2, "--threads", 1, cwd=tmp_path,
                     code=2)
    assert "--tokenizer" in said


@pytest.mark.parametrize("field,value", [
    ("rope_parameters", {"rope_type": "yarn", "factor": 4.0}), ("rope_scaling", {"type": "linear", "factor": 2.0}),
    ("sliding_window", 32), ("attention_bias", True), ("mlp_bias", True), ("hidden_act", "gelu"),
    ("partial_rotary_factor", 0.5), ("model_type", "gemma2"), ("quantization_config", {"bits": 4}),
])
def test_a_field_that_changes_the_maths_is_refused_by_name(tmp_path, field, value):
    save_huggingface(transformers_model("llama"), tmp_path / "hf")
    change_json(tmp_path / "hf" / "config.json", **{field: value})
    said = train_sft("import", "--from", "hf", "--out", "ours", cwd=tmp_path, code=4)
    assert f"'{field}'" in said and not (tmp_path / "ours").exists()


def test_tensors_that_are_missing_or_too_many_are_named(tmp_path):
    save_huggingface(transformers_model("llama"), tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, path)
    assert name in train_sft("import", "--from", "hf", "--out", "a", cwd=tmp_path, code=4)
    save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}, path)
    assert "q_proj.bias" in train_sft("import", "--from", "hf", "--out", "b", cwd=tmp_path, code=4)
    save_file({**tensors, name: torch.zeros(3, 3)}, path)
    said = train_sft("import", "--from", "hf", "--out", "c", cwd=tmp_path, code=4)
    assert name in said and "[3, 3]" in said


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "..", "", "absent.safetensors"])
def test_an_index_cannot_lead_out_of_its_directory(tmp_path, shard):
    save_huggingface(transformers_model("llama"), tmp_path / "hf", shards="60KB")
    path = tmp_path / "hf" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = shard
    path.write_text(json.dumps(index))
    said = train_sft("import", "--from", "hf", "--out", "ours", cwd=tmp_path, code=4)
    assert "hf/" in said


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "noise").write_bytes(struct.pack("<4sI", b"GGUF", 3))
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name in ("noise", "text", "empty", "absent"):
        assert name in train_sft("import", "--from", name, "--out", "ours", cwd=tmp_path, code=4)
    train_sft("import", "--from", "noise", cwd=tmp_path, code=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    assert "full" in train_sft("import", "--from", "noise", "--out", "full", cwd=tmp_path, code=2)
    assert (tmp_path / "full" / "precious").exists()
