"""--shard optimizer: the updates of the unshared run, and checkpoints that load at any number of processes."""

import json
import pathlib
import signal

import pytest

from conftest import metrics, run
from ranks import Processes, assert_same_steps, stopped_at_counts, train, wait_for_step, write_words

SETTINGS = ("--data", "text.txt", "--n_layer", 3, "--n_head", 2, "--n_embd", 16, "--tokenizer_type", "char", "--threads", 1,
            "--block_size", 32, "--batch_size", 1, "--grad_accum", 1, "--gpus", 4, "--max_iters", 40, "--eval_interval", 20,
            "--log_interval", 1, "--learning_rate", "1e-3", "--dropout", 0.1)
MOVES = ((4, 7), (2, 17), (1, 25, "--shard", "none"))  # processes, the step they are stopped after, more words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    write_words(folder / "text.txt", 60)
    train(1, *SETTINGS, "--out_dir", "one", cwd=folder)
    return folder


def files_of(checkpoint):
    return {path.name for path in pathlib.Path(checkpoint).iterdir()}


@pytest.mark.parametrize("count", (2, 4))
def test_sharded_is_unsharded(folder, count):
    out_dir = f"sharded{count}"
    train(count, *SETTINGS, "--shard", "optimizer", "--out_dir", out_dir, cwd=folder)
    assert_same_steps(metrics(folder / "one"), metrics(folder / out_dir), 1e-5)
    parts = {"optimizer.safetensors"} | {f"optimizer-{rank:05}.safetensors" for rank in range(1, count)}
    assert parts <= files_of(folder / out_dir / "latest")
    assert parts <= set(json.loads((folder / out_dir / "latest" / "manifest.json").read_text())["files"])


def test_sharded_masters_beside_bfloat16(folder):
    train(2, *SETTINGS, "--precision", "bf16", "--out_dir", "plain_bf16", cwd=folder)
    train(2, *SETTINGS, "--precision", "bf16", "--shard", "optimizer", "--out_dir", "sharded_bf16", cwd=folder)
    assert_same_steps(metrics(folder / "plain_bf16"), metrics(folder / "sharded_bf16"), 1e-4)


def test_shared_masters_go_on_at_any_count_and_unshared(folder):
    bf16 = (*SETTINGS, "--precision", "bf16")
    train(1, *bf16, "--out_dir", "one_bf16", cwd=folder)
    first = (*bf16, "--shard", "optimizer", "--save_interval", 5, "--out_dir", "moved_bf16")
    resumed = stopped_at_counts(folder, "moved_bf16", first, MOVES)
    train(4, *resumed, "--shard", "optimizer", cwd=folder)
    assert_same_steps(metrics(folder / "one_bf16"), metrics(folder / "moved_bf16"), 1e-4, grad_norm=1e-3)


def test_a_resume_with_shared_masters_is_bit_for_bit(folder):
    settings = (*SETTINGS, "--precision", "bf16", "--shard", "optimizer", "--save_interval", 5)
    train(2, *settings, "--out_dir", "whole_bf16", cwd=folder)
    processes = Processes(2, *settings, "--out_dir", "cut_bf16", cwd=folder)
    try:
        wait_for_step(folder / "cut_bf16", 12, processes)
        processes.signal(0, signal.SIGKILL)
        processes.end(ranks=[1])
    finally:
        processes.kill_all()
    train(2, "--resume", "auto", "--out_dir", "cut_bf16", cwd=folder)
    assert_same_steps(metrics(folder / "whole_bf16"), metrics(folder / "cut_bf16"), 0)
    for name in ("model.safetensors", "optimizer.safetensors", "optimizer-00001.safetensors"):
        whole, cut = ((folder / out_dir / "latest" / name).read_bytes() for out_dir in ("whole_bf16", "cut_bf16"))
        assert whole == cut, name


def test_muon_updates_whole_matrices_of_its_part(folder):
    train(1, *SETTINGS, "--optimizer", "muon", "--out_dir", "muon1", cwd=folder)
    train(2, *SETTINGS, "--optimizer", "muon", "--shard", "optimizer", "--out_dir", "muon2", cwd=folder)
    assert_same_steps(metrics(folder / "muon1"), metrics(folder / "muon2"), 1e-4)


def test_a_sharded_run_goes_on_at_any_count_and_unsharded(folder):
    first = (*SETTINGS, "--shard", "optimizer", "--save_interval", 5, "--out_dir", "moved")
    resumed = stopped_at_counts(folder, "moved", first, MOVES, rank_of=lambda count: count - 1)
    assert not any(name.startswith("optimizer-") for name in files_of(folder / "moved" / "latest"))
    train(4, *resumed, "--shard", "optimizer", cwd=folder)
    assert_same_steps(metrics(folder / "one"), metrics(folder / "moved"), 1e-5)
    run("train_sft", "generate", "--checkpoint", "moved/latest", "--prompt", "the", "--max_new_tokens", 4, cwd=folder)


def test_a_sharded_resume_is_bit_for_bit_and_older_ones_are_thinned(folder):
    train(2, *SETTINGS, "--shard", "optimizer", "--save_interval", 5, "--out_dir", "whole", cwd=folder)
    processes = Processes(2, *SETTINGS, "--shard", "optimizer", "--save_interval", 5, "--out_dir", "cut", cwd=folder)
    try:
        wait_for_step(folder / "cut", 12, processes)
        processes.signal(1, signal.SIGKILL)
        processes.end(ranks=[0])
    finally:
        processes.kill_all()
    train(2, "--resume", "auto", "--out_dir", "cut", cwd=folder)
    assert_same_steps(metrics(folder / "whole"), metrics(folder / "cut"), 0)
    for name in ("model.safetensors", "optimizer.safetensors", "optimizer-00001.safetensors"):
        whole, cut = ((folder / out_dir / "latest" / name).read_bytes() for out_dir in ("whole", "cut"))
        assert whole == cut, name
    kept = [path for path in (folder / "whole").glob("step_*") if "optimizer-00001.safetensors" in files_of(path)]
    assert len(kept) <= 3, kept  # keep_optimizer 2, and the best one's


def test_histograms_of_gradients_are_refused(folder):
    said = train(2, *SETTINGS, "--shard", "optimizer", "--use_tensorboard", "--histogram_interval", 5, "--out_dir", "no",
                 cwd=folder, code=2)
    assert "histogram_interval: with shard optimizer" in said[0]
