"""LoRA against PEFT: what we train loads there with equal logits, what it writes is merged here to the same."""

import json

import pytest
import torch
from conftest import as_json, change_json, metrics, train_sft
from model_files import KINDS, save_huggingface, transformers_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

peft = pytest.importorskip("peft")
TOKENS = torch.arange(2 * 40).reshape(2, 40) * 7 % 96
TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"],
           "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def base_model(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def checkpoint_of(folder, kind):
    """A base that can be trained: the weights of a random model with a tokenizer of ours."""
    data = folder / "data.txt"
    data.write_text("".join(f"{i} and {i * 7 % 31} make {i + i * 7 % 31}.\n" for i in range(300)), encoding="utf-8")
    small = {"gpt2": ["--family", "gpt2"], "llama": ["--family", "llama", "--n_kv_head", 2]}[kind]
    train_sft("--data", data, *small, "--tokenizer_type", "char", "--n_layer", 2, "--n_head", 4, "--n_embd", 64,
              "--block_size", 64, "--max_iters", 3, "--batch_size", 2, "--threads", 1, "--out_dir", "base", cwd=folder)
    return folder / "base" / "latest"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_adapter_trained_here_is_pefts(tmp_path, kind):
    base = checkpoint_of(tmp_path, kind)
    train_sft("--pretrained_model", base, "--data", "data.txt", "--lora_rank", 4, "--lora_alpha", 12, "--max_iters", 20,
              "--learning_rate", "1e-2", "--batch_size", 4, "--threads", 1, "--out_dir", "lora", cwd=tmp_path)
    adapter = (tmp_path / "lora" / "latest").resolve()
    assert not (adapter / "model.safetensors").exists()
    vocabulary = json.loads((base / "config.json").read_text())["vocab_size"]
    tokens = TOKENS % vocabulary
    with torch.no_grad():
        plain = base_model(base)(tokens).logits
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()(tokens).logits
        # transformers alone takes the directory too, and finds the base by its path.
        direct = AutoModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()(tokens).logits
    assert (theirs - plain).abs().max() > 1e-2, "the adapter learned nothing"
    assert torch.equal(theirs, direct)
    assert "--merge" in train_sft("export", "--checkpoint", "lora", "--format", "hf", "--out", "x", cwd=tmp_path, code=2)
    train_sft("export", "--checkpoint", "lora", "--merge", "--format", "hf", "--out", "merged", cwd=tmp_path)
    with torch.no_grad():
        merged = base_model(tmp_path / "merged")(tokens).logits
    assert (merged - theirs).abs().max() <= 1e-4
    # chat and eval take the adapter's checkpoint; its loss is that of the merged model.
    loss = [as_json("eval", "--checkpoint", path, "--data", "data.txt", "--threads", 1, cwd=tmp_path)
            for path in ("lora/latest", "merged")]
    assert abs(loss[0]["loss"] - loss[1]["loss"]) <= 1e-5


def random_adapter(base, kind, out, **more):
    """Saved by peft; its model."""
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS.get(kind, TARGETS["llama"]),
                             task_type="CAUSAL_LM", **more)
    adapted = peft.get_peft_model(base_model(base), config).eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(out)
    return adapted


def peft_adapter(folder, kind, **more):
    save_huggingface(transformers_model(kind), folder / "hf")
    return random_adapter(folder / "hf", kind, folder / "adapter", **more)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_steps_gradients_are_those_of_peft(tmp_path, kind):
    """One step on one row: the first moment is (1 - beta1) times the gradient of the mean loss."""
    base = checkpoint_of(tmp_path, kind).resolve()
    theirs = random_adapter(base, kind, tmp_path / "adapter")
    (tmp_path / "row.txt").write_text("12 and 22 make 34.\n", encoding="utf-8")
    train_sft("--pretrained_model", "adapter", "--tokenizer", base, "--data", "row.txt", "--val_split", 0, "--lora_rank", 3,
              "--lora_alpha", 5, "--lora_targets", *TARGETS[kind], "--block_size", 16, "--batch_size", 1, "--max_iters", 1,
              "--grad_clip", 0, "--warmup_iters", 0, "--threads", 1, "--out_dir", "step", cwd=tmp_path)
    ids = AutoTokenizer.from_pretrained(base)((tmp_path / "row.txt").read_text(), add_special_tokens=False)["input_ids"]
    row = torch.tensor([ids[:17]])
    loss = torch.nn.functional.cross_entropy(theirs(row[:, :-1]).logits[0], row[0, 1:])
    loss.backward()
    assert abs(metrics(tmp_path / "step")[1]["loss"] - loss.item()) <= 1e-4
    moments = load_file(tmp_path / "step" / "latest" / "optimizer.safetensors")
    checked = 0
    for name, parameter in theirs.named_parameters():
        if not parameter.requires_grad:
            continue
        ours = moments.pop("exp_avg/" + name.replace(".default", "")) / 0.1
        assert (ours - parameter.grad).norm() <= 1e-3 * parameter.grad.norm(), name
        checked += 1
    assert checked == 2 * 2 * (4 if kind == "gpt2" else 7)
    assert all(name.startswith("exp_avg_sq/") for name in moments)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_peft_is_merged_to_the_same_model(tmp_path, kind):
    theirs = logits(peft_adapter(tmp_path, kind))
    train_sft("import", "--from", "adapter", "--out", "ours", cwd=tmp_path)
    assert (logits(base_model(tmp_path / "ours")) - theirs).abs().max() <= 1e-4


def test_rank_stabilised_scaling_is_followed(tmp_path):
    theirs = logits(peft_adapter(tmp_path, "llama", use_rslora=True))
    train_sft("import", "--from", "adapter", "--out", "ours", cwd=tmp_path)
    assert (logits(base_model(tmp_path / "ours")) - theirs).abs().max() <= 1e-4


def test_a_base_that_does_not_say_its_heads_is_told_them(tmp_path):
    theirs = logits(peft_adapter(tmp_path, "gpt2"))
    train_sft("import", "--from", "hf", "--out", "base", cwd=tmp_path)
    train_sft("export", "--checkpoint", "base", "--format", "pt", "--out", "base.pt", cwd=tmp_path)
    torch.save(torch.load(tmp_path / "base.pt", weights_only=True)["model"], tmp_path / "bare.pt")
    change_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "bare.pt"))
    assert "--n_head" in train_sft("import", "--from", "adapter", "--out", "ours", cwd=tmp_path, code=4)
    train_sft("import", "--from", "adapter", "--out", "ours", "--n_head", 4, cwd=tmp_path)
    assert (logits(base_model(tmp_path / "ours")) - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("field,value", [("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]),
                                         ("rank_pattern", {"q_proj": 2}), ("peft_type", "IA3"), ("peft_type", None), ("bias", 3), ("r", 0)])
def test_a_setting_that_changes_the_maths_is_refused_by_name(tmp_path, field, value):
    peft_adapter(tmp_path, "llama")
    change_json(tmp_path / "adapter" / "adapter_config.json", **{field: value})
    said = train_sft("import", "--from", "adapter", "--out", "ours", cwd=tmp_path, code=4)
    assert f"'{field}'" in said


def test_tensors_that_do_not_fit_are_named(tmp_path):
    peft_adapter(tmp_path, "llama")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    for changed in ({k: v for k, v in tensors.items() if k != name}, {**tensors, name: torch.zeros(2, 64)},
                    {**tensors, name: torch.zeros(3, 65)}):
        save_file(changed, path)
        assert "model.layers.1.mlp.up_proj" in train_sft("import", "--from", "adapter", "--out", "ours", cwd=tmp_path,
                                                         code=4)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(96, 64)}, path)
    assert "lm_head" in train_sft("import", "--from", "adapter", "--out", "ours", cwd=tmp_path, code=4)
    save_file(tensors, path)
    (tmp_path / "hf").rename(tmp_path / "moved")
    assert "base model" in train_sft("import", "--from", "adapter", "--out", "ours", cwd=tmp_path, code=4)
