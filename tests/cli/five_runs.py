"""What the suites of the five runs share. Each does one example's commands word for word, with a tiny model
in place of the real one, and reads what happened from the run's files; examples.jsonl (log_examples) names
the examples of every step."""

from conftest import read_jsonl

WATCHED = {"log_interval": 1, "log_examples": True}
ALMOST = {"rel": 1e-9}  # of pytest.approx


def epoch_of_examples(out_dir, size):
    """Steps in the first epoch, from the examples that each step read; each must occur exactly once."""
    seen, sizes = set(), []
    for line in read_jsonl(out_dir / "examples.jsonl"):
        if len(seen) == size:
            break
        examples = line["examples"]
        assert not seen & set(examples) and len(set(examples)) == len(examples), f"step {line['step']} repeats an example"
        seen |= set(examples)
        sizes.append(len(examples))
    assert len(seen) == size, f"{len(seen)} of {size} examples were read"
    return sizes


def log_of(out_dir):
    return (out_dir / "training.log").read_text(encoding="utf-8").replace(",", "")


def lr(steps, step):
    return steps[step]["lr"]
