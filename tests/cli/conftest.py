"""What the suites share: running the program as a person would, and reading what a run left."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("TRAIN_SFT", str(ROOT / "build" / "train_sft"))
SHARED_DATA = ROOT.parent / "shared" / "data"

# A model that costs nothing; what is under test is which rows are read when, not what is learned.
TINY_MODEL = {"family": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 400}


def environment(**more):
    # The examples call `train_sft` by name.
    path = os.pathsep.join([os.path.dirname(PROGRAM), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "TRAIN_SFT": PROGRAM, **{k: str(v) for k, v in more.items()}}


def run(*command, cwd, code=0, timeout=300, **env):
    """Runs a command, checks its exit code and returns what it said on both streams."""
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment(**env), timeout=timeout,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = result.stdout + result.stderr
    assert result.returncode == code, f"exit code {result.returncode}, expected {code}:\n{said[-4000:]}"
    return said


def train_sft(*arguments, **options):
    return run(PROGRAM, *arguments, **options)


def as_json(*arguments, cwd):
    """What a command prints on standard output with --json."""
    said = subprocess.run([PROGRAM, *map(str, arguments), "--json"], cwd=cwd, env=environment(), timeout=300,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def read_jsonl(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]


def write_jsonl(path, records):
    pathlib.Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def metrics(out_dir):
    """metrics.jsonl by step; each step once."""
    lines = read_jsonl(pathlib.Path(out_dir) / "metrics.jsonl")
    by_step = {line["step"]: line for line in lines}
    assert len(by_step) == len(lines), "a step occurs twice in metrics.jsonl"
    return by_step


def change_json(path, **values):
    path = pathlib.Path(path)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def example(name, folder, *make_data_arguments):
    """A copy of examples/<name> with its data made."""
    copy = folder / name
    shutil.copytree(ROOT / "examples" / name, copy, ignore=shutil.ignore_patterns("data", "checkpoints*", "runs*"))
    shutil.copy(ROOT / "examples" / "synthetic.py", folder)
    run("python3", "make_data.py", *make_data_arguments, cwd=copy)
    return copy


@pytest.fixture
def text_file(tmp_path):
    """A little prose to train on."""
    path = tmp_path / "text.txt"
    words = "the quick brown fox jumps over the lazy dog while seven wizards box".split()
    path.write_text("\n".join(" ".join(words[(i * 7 + j * 3) % len(words)] for j in range(12)) for i in range(200)) + "\n",
                    encoding="utf-8")
    return path


@pytest.fixture
def chat_file(tmp_path):
    path = tmp_path / "chat.jsonl"
    write_jsonl(path, [{"instruction": f"What is {i} plus one?", "input": "", "output": str(i + 1)} for i in range(120)])
    return path
