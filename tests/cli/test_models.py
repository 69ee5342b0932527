"""Models in: what `import` makes of other tools' files, judged by those tools."""

import json
import struct

import numpy as np
import pytest
import torch
from conftest import change_json, train_sft
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
    said = json.loads(train_sft("import", "--from", "hf", "--out", "ours", "--json", cwd=tmp_path).split("\n}")[0] + "}")
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
