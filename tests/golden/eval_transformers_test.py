"""What `eval` says, computed again by transformers and PyTorch from the checkpoint directory.

    python eval_transformers_test.py TRAIN_SFT

Loss, perplexity, bits per byte and token accuracy of named sets of conversations and of text; the same loss during
training; multiple choice in HellaSwag's form: every ending's loss, and which one each way of scoring chooses.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile

import torch
import transformers

BLOCK = 64


class Checks:
    def __init__(self, program):
        self.program = os.path.abspath(program)
        self.folder = tempfile.TemporaryDirectory()
        self.rng = random.Random(5)
        self.words = "the cat sees a small dog while été comes 漢字 and nobody knows why it rains 12 times".split()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments), "--json", "--threads", "1"], capture_output=True,
                              text=True, cwd=self.folder.name)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def say(self, low, high):
        return " ".join(self.rng.choices(self.words, k=self.rng.randrange(low, high)))

    def write(self, name, records):
        with open(self.path(name), "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in records)
        return self.path(name)

    def write_data(self):
        with open(self.path("base.txt"), "w") as f:
            f.writelines(self.say(5, 12) + ".\n" for _ in range(120))
        chat = lambda: {"messages": [{"role": "user", "content": self.say(2, 6)},
                                     {"role": "assistant", "content": self.say(1, 5), "loss_weight": 1.0},
                                     {"role": "user", "content": "and?"},
                                     {"role": "assistant", "content": self.say(1, 4), "loss_weight": 0.5}]}
        self.write("chats.jsonl", [chat() for _ in range(150)])
        self.write("held_out.jsonl", [chat() for _ in range(40)])
        questions = [{"ctx": self.say(3, 30), "endings": [self.say(1, 7) for _ in range(4)],
                      "label": str(i % 4) if i % 2 else i % 4} for i in range(60)]
        questions += [{"ctx": "", "endings": ["the cat", "it"], "label": 1},
                      {"ctx": self.say(80, 90), "endings": ["a dog", "été"], "label": 0}]
        self.write("questions.jsonl", questions)
        return questions

    def load(self, checkpoint):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.auto = transformers.AutoTokenizer.from_pretrained(checkpoint)

    @torch.no_grad()
    def losses(self, ids):
        """−log p of ids[1:], and whether each is the likeliest."""
        logits = self.model(torch.tensor([ids])).logits[0].double()
        targets = torch.tensor(ids[1:])
        return torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="none"), logits[:-1].argmax(-1) == targets

    def size(self, ids):
        if self.auto.convert_ids_to_tokens(ids)[0].startswith("<0x"):
            return 1  # a byte of a character
        return len(self.auto.decode(ids, skip_special_tokens=True).encode())

    def scores(self, examples):
        """Of [(ids, weights of predicting each)], as eval words them."""
        loss = weight = size = 0.0
        right = tokens = 0
        for ids, weights in examples:
            each, correct = self.losses(ids)
            for i, w in enumerate(weights[1:]):
                if w > 0:
                    loss += w * each[i].item()
                    weight += w
                    size += w * self.size([ids[i + 1]])
                    right += bool(correct[i])
                    tokens += 1
        return {"loss": loss / weight, "perplexity": math.exp(loss / weight), "bits_per_byte": loss / math.log(2) / size,
                "token_accuracy": right / tokens, "scored_tokens": tokens}

    def same(self, ours, theirs, what):
        for key, value in theirs.items():
            assert abs(ours[key] - value) <= 1e-4 * max(1.0, abs(value)), (what, key, ours[key], value)

    def conversations(self, name):
        ours = self.run("inspect", self.path(name), "--tokenizer", self.path("run/latest"), "--block_size", BLOCK, "--show", 10 ** 6)
        return [(e["ids"], e["weights"]) for e in ours["shown_ids"]]

    def text_rows(self, name):
        with open(self.path(name)) as f:
            ids = self.auto(f.read(), add_special_tokens=False)["input_ids"] + [self.auto.eos_token_id]
        rows = (len(ids) - 1) // BLOCK
        return [(ids[r * BLOCK:(r + 1) * BLOCK + 1], [0.0] + [1.0] * BLOCK) for r in range(rows)]

    def multiple_choice(self, ours, questions):
        chosen = {"accuracy": 0, "accuracy_norm": 0, "accuracy_per_token": 0}
        cut = 0
        assert len(ours["scores"]) == len(questions)
        for scores, question in zip(ours["scores"], questions):
            context = self.auto(question["ctx"], add_special_tokens=False)["input_ids"] or [self.auto.bos_token_id]
            losses, tokens, was_cut = [], [], False
            for ending in question["endings"]:
                tail = self.auto(" " + ending, add_special_tokens=False)["input_ids"]
                was_cut |= len(context) + len(tail) > BLOCK
                each, _ = self.losses((context + tail)[-BLOCK:])
                losses.append(each[-len(tail):].sum().item())
                tokens.append(len(tail))
            cut += was_cut
            assert tokens == scores["tokens"], (question, tokens, scores)
            for mine, theirs in zip(losses, scores["losses"]):
                assert abs(mine - theirs) < 1e-3, (question, losses, scores)
            sizes = {"accuracy": [1] * len(losses), "accuracy_norm": [len(e) for e in question["endings"]],
                     "accuracy_per_token": tokens}
            for key, size in sizes.items():
                best = min(range(len(losses)), key=lambda i: losses[i] / size[i])
                chosen[key] += best == int(question["label"])
        for key, right in chosen.items():
            assert abs(ours[key] - right / len(questions)) < 1e-12, (key, ours[key], right)
        assert ours["questions"] == len(questions) and ours["cut"] == cut and 1 <= cut < len(questions)
        return {key: f"{right} of {len(questions)}" for key, right in chosen.items()}

    def all(self):
        questions = self.write_data()
        sets = ["--eval_data", f"base={self.path('base.txt')}", "--eval_data", self.path("held_out.jsonl")]
        trained = self.run("--data", self.path("chats.jsonl"), "--family", "llama", "--n_layer", 2, "--n_head", 2, "--n_embd", 32,
                           "--vocab_size", 400, "--block_size", BLOCK, "--batch_size", 8, "--max_iters", 30, "--eval_interval", 15,
                           "--learning_rate", "3e-3", "--out_dir", "run", *sets)
        self.load(self.path("run/latest"))
        result = self.run("eval", "--checkpoint", "run", "--data", self.path("chats.jsonl"), *sets, "--batch_size", 3,
                          "--multiple_choice", self.path("questions.jsonl"), "--show", 1000)
        assert list(result["sets"]) == ["base", "held_out"]
        self.same(result, self.scores(self.conversations("chats.jsonl")), "data")
        self.same(result["sets"]["held_out"], self.scores(self.conversations("held_out.jsonl")), "held_out")
        self.same(result["sets"]["base"], self.scores(self.text_rows("base.txt")), "base")
        # The same during training, at the last step, and said before the first.
        with open(self.path("run/metrics.jsonl")) as f:
            steps = {s["step"]: s for s in map(json.loads, f)}
        for name, score in result["sets"].items():
            assert abs(steps[30]["eval_losses"][name] - score["loss"]) < 1e-5, (name, steps[30], score["loss"])
            assert abs(trained["eval"][name] - score["loss"]) < 1e-5
            assert abs(steps[15]["eval_losses"][name] - score["loss"]) > 1e-4, "step 15 is not step 30"
        with open(self.path("run/training.log")) as f:
            assert "base loss" in f.read().split("step 1/30")[0]
        print(self.multiple_choice(result["multiple_choice"], questions))
        print({name: round(score["loss"], 4) for name, score in result["sets"].items()})


if __name__ == "__main__":
    Checks(sys.argv[1]).all()
