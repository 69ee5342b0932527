"""The smoke run, as a newcomer would make it, and what it leaves behind."""

import json
import subprocess

import pytest

from conftest import PROGRAM, metrics, read_jsonl, train_sft


def test_smoke_run_leaves_a_whole_run_directory(tmp_path, text_file):
    train_sft("--config", "smoke", "--data", text_file, cwd=tmp_path)
    out = tmp_path / "checkpoints"
    steps = metrics(out)
    assert max(steps) == 40
    assert steps[40]["loss"] < steps[5]["loss"] - 0.5, "nothing was learned"
    assert {"val_loss", "val_ppl"} <= steps[20].keys() and "val_loss" in steps[40]
    for name in ("training.log", "config.json", "latest/model.safetensors", "best_model/config.json", "best_model.pt",
                 "step_00000040/optimizer.safetensors", "step_00000040/manifest.json"):
        assert (out / name).exists(), f"{name} is missing"
    assert len((out / "training.log").read_text(encoding="utf-8").splitlines()) > 10


def test_train_sft_json_in_the_folder_is_enough(tmp_path, text_file):
    (tmp_path / "train_sft.json").write_text(json.dumps({"config": "smoke", "data": [str(text_file)]}), encoding="utf-8")
    train_sft("--max_iters", "10", cwd=tmp_path)
    assert max(metrics(tmp_path / "checkpoints")) == 10


def test_json_prints_one_object_and_nothing_else_on_stdout(tmp_path, text_file):
    result = subprocess.run([PROGRAM, "--config", "smoke", "--data", text_file, "--json"], cwd=tmp_path, text=True,
                            capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["step"] == 40 and summary["exit_code"] == 0


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(tmp_path, text_file):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_sft("--config", "smoke", "--data", text_file, "--seed", seed, "--out_dir", out, cwd=tmp_path)
    a, b, c = ((tmp_path / out / "latest" / "model.safetensors").read_bytes() for out in "abc")
    assert a == b
    assert a != c


def test_a_run_cut_and_resumed_equals_the_uncut_run(tmp_path, text_file):
    common = ["--config", "smoke", "--data", text_file, "--log_interval", "1"]
    train_sft(*common, "--out_dir", "whole", cwd=tmp_path)
    cut = subprocess.Popen([PROGRAM, *common, "--out_dir", "cut", "--save_interval", "7"], cwd=tmp_path,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "cut" / "metrics.jsonl"
    while cut.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 10):
        pass
    cut.kill()
    cut.wait()
    train_sft(*common, "--out_dir", "cut", "--save_interval", "7", "--resume", "auto", cwd=tmp_path)
    whole, resumed = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    assert [whole[s]["loss"] for s in range(1, 41)] == [resumed[s]["loss"] for s in range(1, 41)]
    weights = [(tmp_path / out / "latest" / "model.safetensors").read_bytes() for out in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_instructions_from_a_pretrained_model(tmp_path, text_file, chat_file):
    train_sft("--config", "smoke", "--data", text_file, "--block_size", "64", cwd=tmp_path)
    train_sft("--config", "smoke", "--data", chat_file, "--pretrained_model", "checkpoints/best_model.pt",
              "--block_size", "64", "--sample_interval", "20", "--use_tensorboard", cwd=tmp_path)
    assert max(metrics(tmp_path / "checkpoints_instruct")) == 40
    assert list((tmp_path / "runs_instruct").rglob("events.out.tfevents.*"))
    assert [sample["step"] for sample in read_jsonl(tmp_path / "checkpoints_instruct" / "samples.jsonl")][:1] == [20]


def test_a_profile_accounts_for_the_steps(tmp_path, text_file):
    result = subprocess.run([PROGRAM, "--config", "smoke", "--data", text_file, "--n_embd", "128", "--profile", "--json"],
                            cwd=tmp_path, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    assert result.returncode == 0, result.stderr
    profile = json.loads(result.stdout)["profile"]
    assert profile["steps"] == 39, "all but the first"
    assert 0.8 < profile["accounted"] <= 1
    assert profile["accounted"] == pytest.approx(sum(op["share"] for op in profile["ops"]))
    calls = {op["name"]: op["calls"] for op in profile["ops"]}
    assert calls["output layer and cross-entropy"] == 1 and calls["data"] == 1
    assert "output layer and cross-entropy" in result.stderr


def test_generate_and_eval_say_their_speed(tmp_path, text_file):
    train_sft("--config", "smoke", "--data", text_file, cwd=tmp_path)

    def result(*command):
        return json.loads(subprocess.run([PROGRAM, *command, "--checkpoint", "checkpoints", "--json"], cwd=tmp_path, check=True,
                                         capture_output=True, stdin=subprocess.DEVNULL, timeout=60).stdout)
    generated = result("generate", "--prompt", "a", "--max_new_tokens", "8", "--temperature", "0")
    assert generated["new_tokens"] == 8 and generated["tokens_per_s"] > 0
    evaluated = result("eval", "--data", str(text_file))
    assert evaluated["tokens_per_s"] > 0
