"""Bad input: the exit code, and a message that says what, where and what to do."""

import pytest

from conftest import train_sft

SMOKE = ["--config", "smoke"]


def fails(code, *arguments, cwd, says):
    said = train_sft(*arguments, cwd=cwd, code=code)
    for part in says:
        assert part in said, f"expected {part!r} in:\n{said}"
    assert "Traceback" not in said and "terminate called" not in said


@pytest.mark.parametrize("arguments, says", [
    (["--bach_size", "8"], ["bach_size", "batch_size"]),
    (["--config", "smok"], ["smok", "smoke"]),
    (["--batch_size", "eight"], ["batch_size", "eight"]),
    (["--learning_rate", "-1"], ["learning_rate", "-1"]),
    (["--packing", "tight"], ["packing", "tight", "best_fit"]),
    (["--grad_accum", "2", "--target_examples_per_step", "64"], ["grad_accum", "target_examples_per_step"]),
    (["--grad_accum", "2", "--total_batch_size", "4096"], ["grad_accum", "total_batch_size"]),
    (["--total_batch_size", "1000"], ["total_batch_size", "1000"]),
    (["--target_examples_per_step", "13"], ["target_examples_per_step", "13"]),
    (["--epochs", "2", "--max_iters", "5"], ["epochs", "max_iters"]),
    (["--n_embd", "33"], ["n_embd", "33"]),
    (["--extend_steps", "10"], ["extend_steps", "resume"]),
], ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "")
def test_usage_errors_name_option_value_and_remedy(tmp_path, text_file, arguments, says):
    fails(2, *SMOKE, "--data", text_file, *arguments, cwd=tmp_path, says=says)
    assert not (tmp_path / "checkpoints").exists(), "a refused run must leave nothing behind"


def test_no_data_says_which_line_to_add(tmp_path):
    fails(2, *SMOKE, cwd=tmp_path, says=["data", "train_sft.json"])


def test_unknown_command_has_a_near_miss(tmp_path):
    fails(2, "trian", cwd=tmp_path, says=["trian", "train"])


@pytest.mark.parametrize("name, contents, says", [
    ("empty.txt", b"", ["empty.txt", "empty"]),
    ("empty.jsonl", b"", ["empty.jsonl", "empty"]),
    ("latin1.txt", "plain text\n".encode() * 20 + b"caf\xe9 au lait\n", ["latin1.txt", "UTF-8"]),
    ("cut.json", b'[{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "inp', ["cut.json"]),
    ("bad.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "c"}\n{"prompt": oops}\n', ["bad.jsonl:3"]),
    ("field.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "only"}\n', ["field.jsonl:2", "completion"]),
    ("type.jsonl", b'{"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "b"}]}\n', ["type.jsonl:1", "content"]),
    ("role.jsonl", b'{"messages": [{"role": "wizard", "content": "a"}, {"role": "assistant", "content": "b"}]}\n', ["role.jsonl:1", "wizard"]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_data_is_named_by_file_line_and_field(tmp_path, name, contents, says):
    (tmp_path / name).write_bytes(contents)
    fails(3, *SMOKE, "--data", name, cwd=tmp_path, says=says)


def test_missing_data_file(tmp_path):
    fails(3, *SMOKE, "--data", "nowhere.txt", cwd=tmp_path, says=["nowhere.txt"])


def test_nothing_learned_at_all(tmp_path):
    (tmp_path / "user.jsonl").write_text('{"messages": [{"role": "user", "content": "hello there"}]}\n' * 3, encoding="utf-8")
    fails(2, *SMOKE, "--data", "user.jsonl", cwd=tmp_path, says=["learn"])


def test_a_directory_that_holds_another_run_is_refused(tmp_path, text_file):
    train_sft(*SMOKE, "--data", text_file, cwd=tmp_path)
    fails(2, *SMOKE, "--data", text_file, cwd=tmp_path, says=["checkpoints", "--resume auto", "--out_dir"])


def test_an_out_dir_that_cannot_be_written(tmp_path, text_file):
    (tmp_path / "file").write_text("a file, not a folder", encoding="utf-8")
    fails(5, *SMOKE, "--data", text_file, "--out_dir", "file/run", cwd=tmp_path, says=["file/run", "--out_dir"])


def test_a_checkpoint_with_a_flipped_byte(tmp_path, text_file):
    train_sft(*SMOKE, "--data", text_file, cwd=tmp_path)
    weights = tmp_path / "checkpoints" / "step_00000040" / "model.safetensors"
    contents = bytearray(weights.read_bytes())
    contents[-5] ^= 1
    weights.write_bytes(contents)
    fails(4, *SMOKE, "--data", text_file, "--pretrained_model", "checkpoints/step_00000040", "--out_dir", "next",
          cwd=tmp_path, says=["model.safetensors"])
    # Resuming falls back to the newest checkpoint that is whole, and says so.
    said = train_sft(*SMOKE, "--data", text_file, "--resume", "auto", cwd=tmp_path)
    assert "step_00000040" in said and "step_00000020" in said


def test_a_missing_checkpoint(tmp_path, text_file):
    fails(4, *SMOKE, "--data", text_file, "--pretrained_model", "nowhere", cwd=tmp_path, says=["nowhere"])


def test_a_tokenizer_that_does_not_fit_the_checkpoint(tmp_path, text_file):
    train_sft(*SMOKE, "--data", text_file, "--out_dir", "chars", cwd=tmp_path)
    train_sft(*SMOKE, "--data", text_file, "--tokenizer_type", "bpe", "--vocab_size", "512", "--out_dir", "bpe", cwd=tmp_path)
    fails(4, *SMOKE, "--data", text_file, "--pretrained_model", "chars/latest", "--tokenizer", "bpe/latest",
          "--out_dir", "next", cwd=tmp_path, says=["tokenizer"])
