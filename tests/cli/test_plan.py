"""`train_sft plan`: the five runs' own figures, and what it predicts against what a run leaves."""

import json

import pytest

from conftest import TINY_MODEL, as_json, change_json, example, metrics, train_sft


def plan(*arguments, cwd):
    return as_json("plan", *arguments, cwd=cwd)


def ids(planned):
    return {warning["id"] for warning in planned["warnings"]}


def test_run_1_full_epoch_sft(tmp_path):
    # 75,000 examples with 12,645,675 tokens, by their sizes: the write-up's arithmetic.
    sizes = ["--config", "sft_112m", "--dataset_examples", "75000", "--mean_tokens", str(12_645_675 / 75_000),
             "--val_split", "0", "--learning_rate", "7e-5", "--probe_steps", "0"]
    full = plan(*sizes, "--max_iters", "800", cwd=tmp_path)
    assert full["tokens_per_step"] == 16_384
    assert full["steps_per_epoch_if_full"] == pytest.approx(771.83, abs=0.005)
    assert full["steps_per_epoch"] == 772
    assert full["epochs"] == pytest.approx(1.036, abs=0.0005)
    assert [full[part] for part in ("warmup_iters", "plateau_iters", "decay_iters")] == [20, 400, 380]
    assert full["lr_at"]["19"] == full["lr_at"]["419"] == 7e-5 and full["lr_at"]["799"] == pytest.approx(1e-5)
    assert full["step_ms"] is None and full["total_s"] is None
    half = plan(*sizes, "--max_iters", "400", cwd=tmp_path)
    assert [half[part] for part in ("warmup_iters", "plateau_iters", "decay_iters")] == [10, 200, 190]
    assert "partial_epoch" in ids(half) and "partial_epoch" not in ids(full)


def test_run_2_short_chat_sft(tmp_path):
    planned = plan("--config", "chat_sft_8gb", "--device_batch_size=2", "--max_tokens=1024", "--eval_every=-1",
                   "--num_iterations=300", "--dataset_examples", "22400", "--mean_tokens", "250", "--val_split", "0",
                   "--probe_steps", "0", cwd=tmp_path)
    assert planned["grad_accum"] == 16 and planned["examples_per_step"] == 32
    assert planned["rows_total"] == 9_600
    assert planned["epochs"] == pytest.approx(0.43, abs=0.005)
    assert planned["evaluations"] == 0
    warning = next(w for w in planned["warnings"] if w["id"] == "partial_epoch")
    assert "43 %" in warning["text"]


def test_run_3_epochs_against_steps(tmp_path):
    table = plan("--config", "instruct_alpaca", "--dataset_examples", "52002", "--mean_tokens", "120",
                 "--compare", "max_iters=2000,2300,3100,3900", "--probe_steps", "0", cwd=tmp_path)["compare"]
    assert {name: round(planned["epochs"], 2) for name, planned in table.items()} == {
        "max_iters=2000": 2.59, "max_iters=2300": 2.98, "max_iters=3100": 4.02, "max_iters=3900": 5.05}
    for planned in table.values():
        assert planned["rows_per_epoch"] == 49_401 and planned["validation_rows"] == 2_601
        assert planned["steps_per_epoch"] == 772 and planned["grad_accum"] == 8
        assert planned["iters_for_epochs"] == {str(n): n * 772 for n in range(1, 6)}
    four = plan("--config", "instruct_alpaca", "--gpus", "4", "--dataset_examples", "52002", "--probe_steps", "0",
                cwd=tmp_path)
    assert four["grad_accum"] == 2
    many = plan("--config", "instruct_alpaca", "--max_iters", "4300", "--dataset_examples", "52002", "--probe_steps",
                "0", cwd=tmp_path)
    assert "many_epochs" in ids(many)


def test_run_4_three_epochs_on_eight_gpus(tmp_path):
    planned = plan("--config", "production_8gpu", "--gpus", "8", "--dataset_tokens", "51e9", "--on", "h100x8",
                   "--expect_steps_per_s", "20", cwd=tmp_path)
    assert planned["params"] == pytest.approx(1.2e9, rel=0.03)
    assert planned["tokens_per_step"] == 262_144
    assert planned["epochs"] == pytest.approx(3.036, abs=0.0005)
    assert planned["tokens_total"] == pytest.approx(154.8e9, rel=0.0005)
    assert planned["checkpoints"] == 30  # 29 periodic ones and a final one
    assert planned["checkpoint_bytes"] == 2 * planned["params"] == pytest.approx(2.4e9, rel=0.03)
    assert planned["storage_bytes"]["weights"] == 30 * planned["checkpoint_bytes"] == pytest.approx(70e9, rel=0.03)
    # Masters and two moments in fp32, with the newest two and the best.
    assert planned["storage_bytes"]["optimizer"] == 3 * 12 * planned["params"]
    assert planned["storage_bytes"]["token_cache"] == 102e9
    assert "impossible_speed" in ids(planned)
    warning = next(w for w in planned["warnings"] if w["id"] == "impossible_speed")
    needed = 20 * planned["flops_per_step"] / 8
    assert f"{needed / 1e15:.2f} PFLOP/s of each device" in warning["evidence"] and needed > 4.7e15
    # At the peak of the devices, nothing lost: the best there can be.
    assert planned["total_s_at_peak"] == pytest.approx(590_625 * planned["flops_per_step"] / (8 * 989.5e12))
    assert planned["total_s"] > 2 * planned["total_s_at_peak"] > 2 * 24 * 3600


def test_run_4_on_four_machines(tmp_path):
    run = ["--config", "production_8gpu", "--dataset_tokens", "51e9"]
    one = plan(*run, "--on", "h100x8", cwd=tmp_path)
    four = plan(*run, "--on", "h100x8", "--nodes", "4", cwd=tmp_path)
    assert four["tokens_per_step"] == 4 * one["tokens_per_step"] == 4 * 262_144
    sent = four["communication"]
    # A ring over 32 ranks with gradients in fp32; a machine's 8 adapters of 400 Gbit/s are its slowest link.
    assert sent["ranks"] == 32 and sent["sent_bytes"] == pytest.approx(2 * 31 / 32 * 4 * four["params"])
    assert sent["communication_ms"] == pytest.approx(sent["sent_bytes"] / 400e9 * 1e3)
    assert sent["compute_ms"] == pytest.approx(one["communication"]["compute_ms"])
    assert four["step_ms"] == pytest.approx(sent["compute_ms"] + sent["exposed_ms"])
    assert 0 < sent["exposed_ms"] < sent["communication_ms"]
    assert sent["scaling_efficiency"] == pytest.approx(sent["compute_ms"] / four["step_ms"])
    slow = plan(*run, "--on", "h100x8", "--nodes", "4", "--network_gbps", "10", cwd=tmp_path)["communication"]
    assert slow["communication_ms"] == pytest.approx(sent["sent_bytes"] / 1.25e9 * 1e3)
    assert slow["scaling_efficiency"] < 0.3
    # A quarter of the optimizer's state or so on each of 4.
    sharded = plan(*run, "--on", "h100x4", "--shard", "optimizer", cwd=tmp_path)
    whole = plan(*run, "--on", "h100x4", cwd=tmp_path)
    optimizer = [p["memory_bytes"]["optimizer"] for p in (sharded, whole)]
    assert optimizer[0] == pytest.approx(optimizer[1] / 4, rel=0.1)
    assert optimizer[0] == pytest.approx(whole["communication"]["optimizer_bytes_sharded"], rel=1e-6)
    # Masters are shared like it; what is gathered of weights is their copy in 16 bits.
    masters = [p["memory_bytes"]["parameters"] for p in (sharded, whole)]
    assert masters[0] == pytest.approx(masters[1] * optimizer[0] / optimizer[1], rel=1e-6)
    assert sharded["communication"]["sent_bytes"] == pytest.approx(0.75 * whole["communication"]["sent_bytes"])
    assert sharded["communication"]["exposed_ms"] > whole["communication"]["exposed_ms"]
    # Of cards that no maker's server is known of, the network's speed must be said.
    unknown = plan(*run, "--on", "l4x8", "--nodes", "2", cwd=tmp_path)
    assert unknown["communication"]["scaling_efficiency"] is None and unknown["step_ms"] > 0
    assert "--network_gbps" in unknown["communication"]["links_basis"]
    # Processes on CPUs: each has its part of the machine's memory, and is a rank of the batch.
    local = plan(*run, "--procs", "2", "--link_gbps", "16", "--probe_steps", "0", cwd=tmp_path)
    assert local["tokens_per_step"] == 2 * 8 * 4 * 1024 and local["communication"]["ranks"] == 2
    assert local["communication"]["communication_ms"] == pytest.approx(4 * local["params"] / 2e9 * 1e3)
    # Each works its half off with its own threads, at the same time. In turn, so that both see the same neighbours.
    measured = [plan("--dataset_tokens", "1e6", "--n_layer", 2, "--n_head", 2, "--n_embd", 64, "--vocab_size", 300,
                     "--block_size", 256, "--batch_size", 8, "--threads", 1, *more, cwd=tmp_path)
                for _ in range(4) for more in (("--gpus", 2), ("--procs", 2))]
    alone, together = (min(p["step_ms"] for p in each) for each in (measured[0::2], measured[1::2]))
    assert together < 0.8 * alone, "two processes plan to be hardly faster than one of them"
    assert "1 threads" in measured[3]["time_basis"]
    # In bfloat16 half the bytes, from a copy of its own.
    rounded = plan(*run, "--procs", "2", "--link_gbps", "16", "--probe_steps", "0", "--reduce_dtype", "bf16", cwd=tmp_path)
    assert rounded["communication"]["sent_bytes"] == local["communication"]["sent_bytes"] / 2
    copy = rounded["memory_bytes"]["gradients"] - local["memory_bytes"]["gradients"]
    assert copy == pytest.approx(2 * local["params"], rel=1e-3)
    # One process works its ranks off in turn and sends nothing.
    assert plan(*run, "--gpus", "8", "--probe_steps", "0", cwd=tmp_path)["communication"] is None


def test_8_bit_scales_are_brought_together_behind_the_gradients(tmp_path):
    model = ("--n_layer", 6, "--n_head", 4, "--n_embd", 64, "--vocab_size", 512, "--precision", "fp8",
             "--dataset_tokens", "1e9", "--on", "h100x4")
    calls = plan(*model, cwd=tmp_path)["communication"]["calls"]
    # The input and the gradient of the four layers of four blocks, in float.
    assert calls[-2:] == [{"call": "all_reduce_max", "name": "8-bit scales", "bytes": 2 * 4 * 4 * 4, "after": "backward"},
                          {"call": "exchange", "name": "sums of the step", "bytes": 56, "after": "backward"}]
    assert {call["name"] for call in calls[:-2]} == {"gradients"}
    current = plan(*model, "--fp8_scaling", "current", cwd=tmp_path)["communication"]["calls"]
    assert current == calls[:-2] + calls[-1:]


def test_run_5_rows_do_not_overlap(tmp_path):
    folder = example("h100_1k", tmp_path)
    change_json(folder / "train_sft.json", **TINY_MODEL)
    planned = plan("--config", "h100_1k", "--probe_steps", "0", cwd=folder)
    assert planned["rows_per_epoch"] == 968 and planned["rows_at_stride_1"] == 990_362
    assert planned["tail_tokens"] == 153
    assert planned["max_iters"] == 1_000 and planned["lr_at"]["99"] == planned["lr_at"]["999"] == 1e-3


def write_examples(path, count, length):
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            words = " ".join(f"w{(i * 7 + j) % 97}" for j in range(length + i % 5))
            file.write(json.dumps({"instruction": f"say {i}", "output": words}) + "\n")


def test_steps_bytes_and_memory_are_those_of_the_run(tmp_path):
    write_examples(tmp_path / "data.jsonl", 300, 30)
    options = ["--data", "data.jsonl", "--tokenizer_type", "char", "--family", "llama", "--n_layer", "4", "--n_head",
               "4", "--n_embd", "192", "--block_size", "256", "--batch_size", "8", "--packing", "best_fit",
               "--epochs", "2", "--eval_interval", "5", "--log_interval", "1", "--threads", "1"]
    planned = plan(*options, cwd=tmp_path)
    train_sft(*options, "--out_dir", "run", cwd=tmp_path)
    steps = metrics(tmp_path / "run")
    assert planned["max_iters"] == max(steps) and planned["steps_per_epoch"] * 2 == planned["max_iters"]
    assert planned["tokens_total"] == pytest.approx(max(steps.values(), key=lambda s: s["step"])["tokens"])
    assert planned["evaluations"] == sum("val_loss" in step for step in steps.values())
    weights = (tmp_path / "run" / "latest" / "model.safetensors").read_bytes()
    header = int.from_bytes(weights[:8], "little")
    assert planned["checkpoint_bytes"] == len(weights) - 8 - header
    assert planned["step_ms"] > 0 and planned["total_s"] > 0 and "measured" in planned["time_basis"]
    peak = max(step["memory_bytes"] for step in steps.values())
    assert planned["memory_bytes"]["total"] == pytest.approx(peak, rel=0.1)


def test_what_recomputation_would_save(tmp_path):
    write_examples(tmp_path / "data.jsonl", 200, 40)
    options = ["--data", "data.jsonl", "--tokenizer_type", "char", "--family", "llama", "--n_layer", "8", "--n_head",
               "4", "--n_embd", "192", "--block_size", "256", "--batch_size", "8", "--packing", "best_fit",
               "--max_iters", "4", "--log_interval", "1", "--eval_interval", "0", "--threads", "1",
               "--save_in_background", "false"]
    planned = {kind: plan(*options, "--recompute", kind, cwd=tmp_path) for kind in ("none", "attention", "block")}
    for kind, own in planned.items():
        # Every plan knows the memory of all three, and its own time.
        for other in planned:
            assert own["recompute"][other]["memory_bytes"] == pytest.approx(
                planned[other]["memory_bytes"]["total"], rel=0.03)
        assert own["recompute"][kind]["step_ms"] == own["step_ms"]
        times = [own["recompute"][other]["step_ms"] for other in ("none", "attention", "block")]
        assert times == sorted(times) and times[0] < times[2] < 1.5 * times[0]
    activations = [own["memory_bytes"]["activations"] for own in planned.values()]
    assert activations[2] < 0.5 * activations[0] and activations[2] < activations[1] < 0.9 * activations[0]
    losses, peaks = {}, {}
    for kind in planned:
        train_sft(*options, "--recompute", kind, "--out_dir", kind, cwd=tmp_path)
        steps = metrics(tmp_path / kind)
        losses[kind] = [(step["loss"], step["grad_norm"]) for step in steps.values()]
        peaks[kind] = max(step["memory_bytes"] for step in steps.values())
    assert losses["none"] == losses["attention"] == losses["block"]
    for kind, own in planned.items():
        assert own["memory_bytes"]["total"] == pytest.approx(peaks[kind], rel=0.1)
    said = train_sft("plan", *options, cwd=tmp_path)
    assert "block would save" in said and "% of the time" in said


@pytest.mark.parametrize("arguments, id_", [
    (["--warmup_iters", "50", "--max_iters", "50"], "warmup_too_long"),
    (["--deadline", "1s", "--on", "l4", "--max_iters", "90000"], "deadline"),
    (["--vocab_size", "50257"], "vocabulary_padding"),
    (["--learning_rate", "0.5"], "learning_rate_high"),
    (["--learning_rate", "1e-8", "--min_lr", "1e-9"], "learning_rate_low"),
    (["--n_layer", "400", "--n_embd", "8192", "--n_head", "64"], "memory"),
    (["--dataset_tokens", "1e15"], "disk"),
    (["--max_iters", "100"], "tokens_per_parameter"),
    (["--dataset_tokens", "4e7"], "many_epochs"),
])
def test_warnings(tmp_path, arguments, id_):
    # Small enough (1.2 GB) for whatever disk the tests run on.
    sound = ["--config", "gpt2_124m", "--n_layer", "4", "--n_embd", "256", "--n_head", "4", "--vocab_size", "50304",
             "--dataset_tokens", "4.6e8", "--max_iters", "1000", "--warmup_iters", "50", "--batch_size", "16",
             "--grad_accum", "30", "--learning_rate", "6e-4", "--keep", "1"]
    assert ids(plan(*sound, "--probe_steps", "0", "--on", "h100", cwd=tmp_path)) == set()
    assert id_ in ids(plan(*sound, *(["--on", "h100"] if "--on" not in arguments else []), "--probe_steps", "0",
                           *arguments, cwd=tmp_path))


def test_what_the_data_has_is_warned_of(tmp_path):
    write_examples(tmp_path / "data.jsonl", 40, 30)
    text = (tmp_path / "data.jsonl").read_text(encoding="utf-8")
    (tmp_path / "twice.jsonl").write_text(text * 2, encoding="utf-8")
    planned = plan("--data", "twice.jsonl", "--val_data", "data.jsonl", "--tokenizer_type", "char", "--block_size",
                   "64", "--batch_size", "64", "--probe_steps", "0", "--n_layer", "1", "--n_embd", "64", "--n_head",
                   "1", cwd=tmp_path)
    assert {"duplicates", "overlap", "small_validation", "truncated"} <= ids(planned)


def test_each_compared_plan_reads_its_own_data(tmp_path):
    write_examples(tmp_path / "data.jsonl", 40, 30)
    options = ["--data", "data.jsonl", "--tokenizer_type", "char", "--block_size", "256", "--probe_steps", "0",
               "--n_layer", "1", "--n_embd", "64", "--n_head", "1"]
    table = plan(*options, "--compare", "train_on=assistant,all", cwd=tmp_path)["compare"]
    for name, planned in table.items():
        alone = plan(*options, "--" + name, cwd=tmp_path)
        assert planned["learned_tokens"] == alone["learned_tokens"]
    assert table["train_on=all"]["learned_tokens"] > table["train_on=assistant"]["learned_tokens"]


def test_bad_input(tmp_path):
    sizes = ["--dataset_tokens", "1e9", "--probe_steps", "0"]
    assert "h100" in train_sft("plan", *sizes, "--on", "h1000", cwd=tmp_path, code=2)
    assert "contradict" in train_sft("plan", *sizes, "--on", "h100x8", "--gpus", "4", cwd=tmp_path, code=2)
    assert "deadline" in train_sft("plan", *sizes, "--deadline", "soon", cwd=tmp_path, code=2)
    assert "--data FILE" in train_sft("plan", cwd=tmp_path, code=2)
    said = train_sft("plan", "--dataset_tokens", "1e6", "--dataset_examples", "5", cwd=tmp_path, code=2)
    assert "contradicts" in said
    assert "dataset_examples" in train_sft("plan", *sizes, "--mean_tokens", "5", cwd=tmp_path, code=2)
    assert "not a multiple" in train_sft("plan", *sizes, "--total_batch_size", "1000", cwd=tmp_path, code=2)
