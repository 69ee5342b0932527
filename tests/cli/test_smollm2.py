"""SmolLM2-135M-Instruct, a pretrained model from a Q4_1 GGUF file: imported, compared with transformers on the
same weights, trained a little, exported, and compared with transformers and llama.cpp.

The model is found by TRAIN_SFT_SMOLLM2 (a .gguf file) or where scripts/fetch_smollm2.sh puts it; without it
every test here is skipped. llama-cpp-python is needed for the GGUF half.
"""

import functools
import json
import os
import pathlib
import re
import subprocess

import numpy as np
import pytest
import torch
from conftest import PROGRAM, ROOT, environment, train_sft

MODEL = pathlib.Path(os.environ.get("TRAIN_SFT_SMOLLM2") or
                     ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
MODEL_TOOL = os.environ.get("TRAIN_SFT_MODEL_TOOL", str(ROOT / "build" / "tests" / "golden" / "model_tool"))
QUESTION = "What is the capital of France?"

pytestmark = pytest.mark.skipif(not MODEL.is_file(), reason=f"{MODEL} is not there; scripts/fetch_smollm2.sh fetches it")


def transformers_model(directory, **more):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **more).eval()


def transformers_tokenizer(directory, **more):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(directory, **more)


@functools.cache
def reference():
    return transformers_model(MODEL.parent, gguf_file=MODEL.name)


@functools.cache
def reference_tokenizer():
    return transformers_tokenizer(MODEL.parent, gguf_file=MODEL.name)


@functools.cache
def real_text():
    ids = reference_tokenizer()((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))["input_ids"][:512]
    assert len(ids) == 512
    return ids


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def greedy_of(model, ids, count, **more):
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, **more)
    return out[0, len(ids):].tolist()


def our_logits(checkpoint, ids, folder, greedy=0):
    np.array(ids, dtype=np.int32).tofile(folder / "tokens")
    more = [folder / "greedy", str(greedy)] if greedy else []
    subprocess.run([MODEL_TOOL, checkpoint, folder / "tokens", folder / "logits", *more], check=True, env=environment())
    logits = np.fromfile(folder / "logits", dtype=np.float32).reshape(len(ids), -1)
    return (logits, np.fromfile(folder / "greedy", dtype=np.int32).tolist()) if greedy else logits


def chat(checkpoint, question):
    return json.loads(subprocess.run(
        [PROGRAM, "chat", "--checkpoint", checkpoint, "--prompt", question, "--temperature", "0", "--json"], check=True,
        env=environment(), stdout=subprocess.PIPE, text=True).stdout)["reply"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    train_sft("import", "--from", MODEL, "--out", folder / "smollm2", cwd=folder)
    return folder / "smollm2"


def test_logits_and_greedy_tokens_equal_transformers(imported, tmp_path):
    ids = real_text()
    logits, greedy = our_logits(imported, ids, tmp_path, greedy=64)
    assert np.abs(logits - logits_of(reference(), ids)).max() <= 2e-3
    assert greedy == greedy_of(reference(), ids, 64, min_new_tokens=64)


def test_the_directory_is_a_hugging_face_model(imported):
    model = transformers_model(imported)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), reference().named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    # Without digits: transformers' reader of GGUF files leaves out that SmolLM cuts them one by one (its own
    # tokenizer.json does; llama.cpp, below, is compared with digits).
    text = re.sub(r"\d", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert transformers_tokenizer(imported)(text)["input_ids"] == reference_tokenizer()(text)["input_ids"]


def test_chat_answers_sensibly(imported):
    assert "Paris" in chat(imported, QUESTION)


def test_supervised_fine_tuning_runs(imported, tmp_path):
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps({"instruction": f"What is {i} plus one?", "input": "", "output": str(i + 1)}) + "\n"
                            for i in range(40)), encoding="utf-8")
    train_sft("--pretrained_model", imported, "--data", data, "--max_iters", 3, "--batch_size", 2, "--block_size", 128,
              "--learning_rate", "2e-5", "--log_interval", 1, "--out_dir", "sft", "--threads", 2, cwd=tmp_path, timeout=600)
    model = transformers_model(tmp_path / "sft" / "latest")
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), reference().parameters()))
    ids = real_text()[:64]
    assert np.abs(our_logits(tmp_path / "sft" / "latest", ids, tmp_path) - logits_of(model, ids)).max() <= 2e-3


def llama_cpp(path, **options):
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(model_path=str(path), n_ctx=768, logits_all=True, verbose=False, n_threads=2, **options)


def relative_l2(got, want):
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


# llama.cpp multiplies in its own way whatever the file's format: it rounds activations to bf16 or 8 bits to suit.
@pytest.mark.parametrize("dtype,tolerance", [("f32", 2e-3), ("bf16", 2e-2), ("q8_0", 3e-2)])
def test_exported_gguf_in_llama_cpp(imported, tmp_path, dtype, tolerance):
    out = tmp_path / "model.gguf"
    train_sft("export", "--checkpoint", imported, "--format", "gguf", "--dtype", dtype, "--out", out, cwd=tmp_path)
    llama = llama_cpp(out)
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")[:3000]
    ids = transformers_tokenizer(imported)(text)["input_ids"]
    assert llama.tokenize(text.encode(), add_bos=False, special=False) == ids
    ids = ids[:256]
    llama.eval(ids)
    assert relative_l2(np.array(llama.scores[:len(ids)]), logits_of(reference(), ids)) <= tolerance
    if dtype == "q8_0":  # at eight bits, activations too, a model this small answers as it likes (tensor_types_test has the bytes)
        return
    llama.reset()
    reply = llama.create_chat_completion([{"role": "user", "content": QUESTION}], temperature=0.0, max_tokens=40)
    said = reply["choices"][0]["message"]["content"].strip()
    assert "Paris" in said
    prompt = reference_tokenizer().apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=True,
                                                       add_generation_prompt=True, return_dict=True)["input_ids"]
    theirs = greedy_of(reference(), prompt, 40)
    assert said == reference_tokenizer().decode(theirs, skip_special_tokens=True).strip()


@pytest.mark.parametrize("dtype,tolerance", [("f32", 0), ("bf16", 2e-2)])
def test_exported_directory_in_transformers(imported, tmp_path, dtype, tolerance):
    train_sft("export", "--checkpoint", imported, "--format", "hf", "--dtype", dtype, "--out", "hf", cwd=tmp_path)
    ids = real_text()
    got = logits_of(transformers_model(tmp_path / "hf"), ids)
    assert relative_l2(got, logits_of(reference(), ids)) <= tolerance
