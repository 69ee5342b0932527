"""Several processes on GPUs, each on its own, without any: the real program with the fake device as its plugin
(tests/support/fake_device_plugin.cpp), joined by c10d through the function that the CUDA plugin exports, too."""

import json
import os
import pathlib
import shutil
import signal
import subprocess

import pytest
from safetensors import safe_open

import conftest
from conftest import as_json, environment, metrics, write_jsonl
from ranks import LAUNCHED, Processes, assert_same_steps, free_port, train, wait_for_step

BUILD = pathlib.Path(conftest.PROGRAM).parent
PROGRAM = BUILD / "tests" / "train_sft_exporting"
PLUGIN = BUILD / "tests" / "plugins" / "libfake_gpus.so"

SETTINGS = ("--data", "chat.jsonl", "--n_layer", 3, "--n_head", 2, "--n_embd", 16, "--tokenizer_type", "char", "--threads", 1,
            "--block_size", 64, "--batch_size", 2, "--grad_accum", 2, "--max_iters", 24, "--eval_interval", 8,
            "--log_interval", 1, "--learning_rate", "1e-3", "--dropout", 0.1, "--save_interval", 4, "--precision", "fp32",
            "--dist_timeout", 30)
TWO = (*SETTINGS, "--device", "cuda", "--gpus", 2)


@pytest.fixture(autouse=True)
def two_fake_gpus(monkeypatch):
    if not PLUGIN.exists() or not PROGRAM.exists():
        pytest.skip("no fake GPUs: built without Gloo")
    monkeypatch.setattr(conftest, "PROGRAM", str(PROGRAM))
    monkeypatch.setenv("TRAIN_SFT_CUDA_PLUGIN", str(PLUGIN))
    monkeypatch.setenv("FAKE_GPUS", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpus")
    write_jsonl(folder / "chat.jsonl",
                [{"prompt": f"say {i}", "completion": "abcdefghijklmnopqrstuvwxyz"[i % 26] * (1 + i * i % 13)}
                 for i in range(101)])
    return folder


def start(*arguments, cwd, code=0):
    """The program alone, which may start others; what all of them said."""
    plain = {key: value for key, value in environment().items() if key not in LAUNCHED}
    result = subprocess.run([PROGRAM, *map(str, arguments)], cwd=cwd, env=plain, timeout=300, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == code, f"{result.returncode}\n{result.stdout[-4000:]}"
    return result.stdout


@pytest.fixture
def on_one(folder, two_fake_gpus):
    """The same steps by one process on one GPU, the ranks of the batch in turn."""
    if not (folder / "one").exists():
        said = start(*SETTINGS, "--device", "cuda:0", "--gpus", 2, "--out_dir", "one", cwd=folder)
        assert "the 2 ranks are computed one after another on this device" in said
        assert "opened fake GPU 0" in said and "opened fake GPU 1" not in said
    return metrics(folder / "one")


@pytest.mark.parametrize("more", ((), ("--shard", "optimizer")), ids=("whole", "sharded"))
def test_gpus_2_trains_with_two_processes_and_gives_the_losses_of_one(folder, on_one, more):
    out_dir = f"two{len(more)}"
    said = start(*TWO, *more, "--out_dir", out_dir, cwd=folder)
    assert "computing on cuda:0: fake GPU" in said
    assert "2 processes share each step's 4 micro-batches" in said
    assert "[rank 1] opened fake GPU 1" in said
    assert_same_steps(on_one, metrics(folder / out_dir), 1e-5)
    assert (folder / out_dir / "latest" / "optimizer-00001.safetensors").exists() == bool(more)


def test_the_losses_are_those_of_cpus(folder, on_one):
    start(*SETTINGS, "--device", "cpu", "--gpus", 2, "--out_dir", "cpu", cwd=folder)
    assert_same_steps(metrics(folder / "cpu"), on_one, 1e-4)


@pytest.mark.parametrize("more", ((), ("--shard", "optimizer"), ("--shard", "optimizer", "--precision", "bf16"),
                                  ("--precision", "fp8"), ("--shard", "optimizer", "--precision", "fp8"),
                                  ("--precision", "fp8", "--fp8_scaling", "current")),
                         ids=("whole", "sharded", "bf16", "fp8", "sharded_fp8", "current_fp8"))
def test_a_resume_on_gpus_is_bit_for_bit(folder, more):
    name = "_".join(more[1::2]) or "plain"
    start(*TWO, *more, "--out_dir", f"uncut_{name}", cwd=folder)
    cut = folder / f"cut_{name}"
    processes = Processes(2, *SETTINGS, "--device", "cuda", *more, "--out_dir", cut, cwd=folder)
    try:
        wait_for_step(cut, 6, processes)
        processes.signal(1, signal.SIGKILL)
        code, said = processes.end(ranks=[0])[0]
    finally:
        processes.kill_all()
    assert code == 5 and "rank 0 of 2: lost the other processes in '" in said, said[-3000:]
    start("--resume", "auto", "--gpus", 2, "--out_dir", cut, cwd=folder)
    assert_same_steps(metrics(folder / f"uncut_{name}"), metrics(cut), 0)
    for path in sorted((folder / f"uncut_{name}" / "latest").glob("*.safetensors")):
        assert path.read_bytes() == (cut / "latest" / path.name).read_bytes(), path.name


def test_sharded_is_unsharded_in_bfloat16_and_gradients_go_in_16_bits(folder, on_one):
    start(*TWO, "--precision", "bf16", "--out_dir", "bf16", cwd=folder)
    start(*TWO, "--precision", "bf16", "--shard", "optimizer", "--out_dir", "bf16_sharded", cwd=folder)
    assert_same_steps(metrics(folder / "bf16"), metrics(folder / "bf16_sharded"), 1e-4)
    start(*TWO, "--reduce_dtype", "bf16", "--out_dir", "reduced", cwd=folder)
    got = metrics(folder / "reduced")
    assert_same_steps(on_one, got, 1e-3, grad_norm=1e-2)
    assert any(on_one[step]["loss"] != got[step]["loss"] for step in got), "nothing was rounded"


@pytest.mark.parametrize(("precision", "limit", "of_norm"), (("fp32", 1e-5, 1e-5), ("bf16", 1e-4, 5e-3), ("fp8", 1e-4, 5e-3)))
def test_muon_updates_whole_matrices_whoever_keeps_their_moments(folder, precision, limit, of_norm):
    muon = ("--optimizer", "muon", "--precision", precision)
    name = f"muon_{precision}"
    start(*SETTINGS, "--device", "cuda:0", "--gpus", 2, *muon, "--out_dir", f"{name}1", cwd=folder)
    start(*TWO, *muon, "--out_dir", f"{name}2", cwd=folder)
    start(*TWO, *muon, "--shard", "optimizer", "--out_dir", f"{name}_sharded", cwd=folder)
    one, two, sharded = (metrics(folder / f"{name}{kind}") for kind in ("1", "2", "_sharded"))
    assert_same_steps(one, two, limit, grad_norm=of_norm)
    assert_same_steps(two, sharded, 1e-5)


def test_a_run_moves_between_gpus_and_their_number(folder, on_one):
    start(*SETTINGS, "--device", "cuda:1", "--gpus", 2, "--out_dir", "moved", "--keep", 0, "--keep_optimizer", 9,
          cwd=folder)
    for name in ("step_00000024", "step_00000020", "step_00000016"):
        shutil.rmtree(folder / "moved" / name)
    start("--resume", "auto", "--device", "cuda", "--gpus", 2, "--out_dir", "moved", cwd=folder)
    assert_same_steps(on_one, metrics(folder / "moved"), 1e-5)


def short(out_dir, *more):
    return (*SETTINGS, "--max_iters", 2, "--eval_interval", -1, "--out_dir", out_dir, *more)


def test_auto_takes_the_gpus_there_are_and_deals_the_ranks_out_evenly(folder, monkeypatch):
    assert "[rank 1] opened fake GPU 1" in start(*short("auto", "--gpus", 2), cwd=folder)
    said = start(*short("auto4", "--gpus", 4), cwd=folder)
    assert "2 processes share each step's 8 micro-batches" in said
    monkeypatch.setenv("FAKE_GPUS", "3")
    assert "2 processes share each step's 8 micro-batches" in start(*short("auto43", "--gpus", 4), cwd=folder)
    monkeypatch.setenv("FAKE_GPUS", "1")
    said = start(*short("auto41", "--gpus", 4), cwd=folder)
    assert "the 4 ranks are computed one after another on this device" in said and "opened fake GPU 0" in said


def test_procs_stay_on_the_cpu(folder):
    said = start(*short("procs", "--procs", 2), cwd=folder)
    assert said.count("computing on the CPU, as --procs asks; --gpus N computes on N GPUs") == 1
    assert "opened fake GPU" not in said and "2 processes share each step" in said
    assert "device" not in json.loads((folder / "procs" / "config.json").read_text())["_source"]
    said = start(*short("refused", "--procs", 2, "--device", "cuda"), cwd=folder, code=2)
    assert "procs 2 (command line) contradicts device \"cuda\" (command line)" in said


def test_one_named_gpu_is_not_for_several_processes(folder):
    said = train(2, *short("named", "--device", "cuda:1"), cwd=folder, code=2)
    assert "device: cuda:1 is one GPU, and there are 2 processes; --device cuda gives each" in said[0]


def test_two_processes_on_one_gpu_are_refused(folder, monkeypatch):
    monkeypatch.setenv("FAKE_GPUS", "1")
    said = train(2, *short("shared", "--device", "cuda"), cwd=folder, code=2)
    assert "ranks 0 and 1 are both on cuda:0 of one machine" in said[0]


def test_a_process_that_is_shown_one_gpu_takes_it(folder, monkeypatch):
    """As `srun --gpus-per-task 1` does, each has number 0."""
    monkeypatch.setenv("FAKE_GPUS", "1")
    processes = []
    try:
        port = free_port()
        for rank in range(2):
            place = dict(zip(LAUNCHED, (rank, 2, rank, 2, "127.0.0.1", port)))
            processes.append(subprocess.Popen(
                [PROGRAM, *map(str, short("per_task", "--device", "cuda"))], cwd=folder, stdin=subprocess.DEVNULL,
                env=environment(**place, CUDA_VISIBLE_DEVICES=rank + 4), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True))
        ended = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], ended
    assert all("opened fake GPU 0" in said for said in ended)


def test_more_processes_than_gpus_under_auto_are_told_what_to_do(folder):
    said = train(3, *short("three", "--gpus", 3), cwd=folder, code=2)
    assert "the device of rank 2 is not that of rank 0 (cpu, not a GPU)" in said[0]
    assert "give --device cpu" in said[0]


def test_plan_counts_the_processes_that_a_start_has(folder):
    plan = ("plan", *SETTINGS, "--probe_steps", 0)
    assert as_json(*plan, "--device", "cuda", "--gpus", 4, cwd=folder)["communication"]["ranks"] == 2
    assert as_json(*plan, "--device", "cpu", "--gpus", 4, cwd=folder)["communication"] is None
    assert as_json(*plan, "--procs", 2, "--gpus", 4, cwd=folder)["communication"]["ranks"] == 2


EIGHT_BITS = ("--data", "uneven.jsonl", *SETTINGS[2:], "--precision", "fp8", "--n_layer", 4, "--fp8_history", 4, "--max_iters", 8,
              "--eval_interval", -1, "--save_interval", 1, "--keep", 0, "--keep_optimizer", 9)
ON_ONE = ("--device", "cuda:0", "--gpus", 2)
ON_TWO = ("--device", "cuda", "--gpus", 2)


def scales(out_dir, step):
    """What the checkpoint of a step holds of 8-bit scales: each in one file, that of rank 0."""
    checkpoint = out_dir / f"step_{step:08d}"
    for path in checkpoint.glob("optimizer-*.safetensors"):
        with safe_open(path, "pt") as part:
            assert not [name for name in part.keys() if name.startswith("fp8/")], path
    with safe_open(checkpoint / "optimizer.safetensors", "pt") as part:
        return part.get_tensor("fp8/history"), part.get_tensor("fp8/scale")


def assert_same_scales(a, b, step):
    for ours, theirs in zip(scales(a, step), scales(b, step)):
        assert ours.shape == theirs.shape and ours.gt(0).any()
        assert ours.equal(theirs), f"step {step}\n{ours}\n{theirs}"


def assert_near_weights(a, b, tolerance):
    with safe_open(a / "latest" / "model.safetensors", "pt") as ours, \
         safe_open(b / "latest" / "model.safetensors", "pt") as theirs:
        for name in ours.keys():
            x, y = ours.get_tensor(name).double(), theirs.get_tensor(name).double()
            assert (x - y).norm() <= tolerance * x.norm(), (name, ((x - y).norm() / x.norm()).item())


@pytest.fixture
def eight_bits(folder):
    """Runs with 8-bit products by one process and by two, whole and sharded, on rows whose gradients are of very
    different sizes: each process alone would find other scales."""
    if not (folder / "eight_one").exists():
        write_jsonl(folder / "uneven.jsonl",
                    [{"messages": [{"role": "user", "content": f"say {i}"},
                                   {"role": "assistant", "content": "abcdefghijklmnopqrstuvwxyz"[i % 26] * (1 + i * i % 13),
                                    "loss_weight": 10.0 ** (i % 5 - 2)}]} for i in range(101)])
        start(*EIGHT_BITS, *ON_ONE, "--out_dir", "eight_one", cwd=folder)
        start(*EIGHT_BITS, *ON_TWO, "--out_dir", "eight_two", cwd=folder)
        start(*EIGHT_BITS, *ON_TWO, "--shard", "optimizer", "--out_dir", "eight_sharded", cwd=folder)
    return {name: folder / f"eight_{name}" for name in ("one", "two", "sharded")}


def test_eight_bit_scales_and_losses_of_two_processes_are_those_of_one(eight_bits):
    """In the first step weights are the same bits, and so is all that is found in it; later sums have rounded
    differently."""
    one, two, sharded = eight_bits["one"], eight_bits["two"], eight_bits["sharded"]
    begin, end = ((one / f"step_{step:08d}" / "model.safetensors").read_bytes() for step in (1, 8))
    assert begin != end
    assert_same_scales(one, two, 1)
    assert_same_scales(one, sharded, 1)
    for other in (two, sharded):
        assert_same_steps(metrics(one), metrics(other), 1e-4, grad_norm=1e-3)
        assert_near_weights(one, other, 1e-4)
        for step in range(2, 9):
            for ours, theirs in zip(scales(one, step), scales(other, step)):
                assert (ours - theirs).abs().le(0.01 * ours).all(), (step, ours, theirs)


@pytest.mark.parametrize("before, after, more", (("two", "one", ON_ONE), ("one", "two", ON_TWO), ("sharded", "one", ON_ONE),
                                                 ("one", "sharded", (*ON_TWO, "--shard", "optimizer"))))
def test_eight_bit_scales_go_on_with_another_number_of_processes(folder, eight_bits, before, after, more):
    """A step from the same weights and scales finds the same, whoever computes it."""
    uncut, moved = eight_bits[before], folder / f"eight_{before}_{after}"
    shutil.copytree(uncut, moved, symlinks=True)
    for step in (5, 6, 7, 8):
        shutil.rmtree(moved / f"step_{step:08d}")
    start("--resume", "auto", *more, "--out_dir", moved, cwd=folder)
    assert_same_scales(uncut, moved, 4)
    assert_same_scales(uncut, moved, 5)
    assert_same_steps(metrics(uncut), metrics(moved), 1e-4, grad_norm=1e-3)
