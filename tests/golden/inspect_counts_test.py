"""Everything that `inspect` counts in the files of ../shared/data, counted again with the Hugging Face libraries.

    python inspect_counts_test.py TRAIN_SFT [SHARED_DATA_FOLDER]

The tokenizer and template are read back by transformers from what this program wrote; rendering, masks, truncation,
percentiles, duplicates, rows and overlap are worked out here from the README's words alone.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

import transformers

VARS = {"name": "Ada", "author": "the team"}
PERCENTS = [0, 5, 25, 50, 75, 95, 100]


def fill_in(text):
    for name, value in VARS.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def records_of(path):
    with open(path) as f:
        return [json.loads(line) for line in f] if path.endswith(".jsonl") else json.load(f)


def messages_of(record):
    """[(role, content, input, weight)], as the README describes the formats."""
    if "instruction" in record:
        return [("user", fill_in(record["instruction"]), fill_in(record.get("input") or ""), 1.0),
                ("assistant", fill_in(record["output"]), "", 1.0)]
    if "messages" in record:
        text = lambda c: c if isinstance(c, str) else "".join(p.get("text", p.get("value")) for p in c)
        return [(m["role"], fill_in(text(m["content"])), "", float(m.get("loss_weight", 1.0))) for m in record["messages"]]
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    messages = [(roles[m["from"]], fill_in(m["value"]), "", 1.0) for m in record["conversations"]]
    if record.get("tools") not in (None, "", "[]"):
        messages.insert(0, ("system", fill_in("Tools:\n" + record["tools"]), "", 1.0))
    return messages


class Counter:
    """What the Hugging Face libraries make of a conversation."""

    def __init__(self, folder):
        self.auto = transformers.AutoTokenizer.from_pretrained(folder)
        self.specials = [t.content for t in self.auto.added_tokens_decoder.values()]

    def ids(self, text):
        return self.auto(text, add_special_tokens=False)["input_ids"]

    def text(self, messages, prompt):
        as_dicts = [dict(role=r, content=c, **({"input": i} if i else {})) for r, c, i, _ in messages]
        return self.auto.apply_chat_template(as_dicts, add_generation_prompt=prompt, tokenize=False)

    def render(self, messages, train_on):
        assert not any(s in c for _, c, _, _ in messages for s in self.specials), messages
        if train_on != "all":
            while messages and messages[-1][0] != "assistant":
                messages = messages[:-1]
        whole = self.text(messages, False)
        replies = [i for i, m in enumerate(messages) if m[0] == "assistant"]
        cuts = [len(self.text(messages[:i], True)) for i in replies]
        ids, weights = self.ids(whole[:cuts[0]]), []
        weights = [0.0] * len(ids)
        for i, begin, end in zip(replies, cuts, cuts[1:] + [len(whole)]):
            assert whole[begin:].startswith(messages[i][1])
            piece = self.ids(whole[begin:end])
            reply = len(self.ids(messages[i][1])) + 1  # and the token that ends it
            learned = messages[i][3] if train_on == "assistant" or i == replies[-1] else 0.0
            ids += piece
            weights += [learned] * reply + [0.0] * (len(piece) - reply)
        if train_on == "all":
            weights = self.weights_of_all(messages, len(ids))
        return ids, [0.0] + weights[1:]

    def weights_of_all(self, messages, length):
        """Each token has its message's weight; a message goes from its header to the token that closes it."""
        if all(w == 1.0 for _, _, _, w in messages):
            return [1.0] * length
        weights = []
        for i, (role, content, _, weight) in enumerate(messages):  # ChatML without inputs
            assert self.auto.chat_template.count("<|im_start|>")
            header = self.ids(("\n" if i else "") + f"<|im_start|>{role}\n")
            body = self.ids(content)
            if role != "assistant":
                header, body = self.ids(("\n" if i else "") + f"<|im_start|>{role}\n{content}"), []
            weights += [weight] * (len(header) + len(body) + 1)
        assert len(weights) == length, (len(weights), length, messages)
        return weights


def counts_of(rendered, block, packing, is_text=False):
    """The report of examples cut to `block` tokens."""
    lengths = sorted(len(ids) for ids, _ in rendered)
    report = {"truncated": 0, "truncated_tokens": 0, "dropped": {}, "tokens": 0, "learned_tokens": 0,
              "length_percentiles": [lengths[(len(lengths) - 1) * p // 100] for p in PERCENTS]}
    kept = []
    for ids, weights in rendered:
        over = 0 if is_text else max(0, len(ids) - block)
        report["truncated"] += over > 0
        report["truncated_tokens"] += over
        end = len(ids) - over
        learned = sum(w > 0 for w in weights[:end])
        if learned == 0 and not is_text:
            reason = "nothing to learn once truncated" if over else "nothing to learn"
            report["dropped"][reason] = report["dropped"].get(reason, 0) + 1
            continue
        kept.append((ids[:end], weights[:end]))
        report["tokens"] += end
        report["learned_tokens"] += learned
    if packing == "none":
        report["rows"] = len(kept)
    if is_text:
        report["rows"] = (report["tokens"] - 1) // block
        report["tail_tokens"] = report["tokens"] - 1 - report["rows"] * block
    return report, kept


def fewest_rows(lengths, block):
    """A lower bound of the rows that any packing needs (L2 of Martello and Toth 1990): of the examples that a `short`
    one does not fit beside each takes a row, as does each above half a row, and what is short must go into the rest."""
    best = math.ceil(sum(lengths) / block)
    for short in {n for n in lengths if n <= block // 2}:
        full = [n for n in lengths if n > block - short]
        half = [n for n in lengths if block // 2 < n <= block - short]
        rest = sum(n for n in lengths if short <= n <= block // 2) - (len(half) * block - sum(half))
        best = max(best, len(full) + len(half) + max(0, math.ceil(rest / block)))
    return best


class Checks:
    def __init__(self, program, shared):
        self.program = os.path.abspath(program)
        self.shared = os.path.abspath(shared)
        self.folder = tempfile.TemporaryDirectory()
        self.checked = 0

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments), "--json"], capture_output=True, text=True,
                              cwd=self.folder.name)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def tokenizer(self, files, kind, template):
        folder = self.path(f"{kind}_{template}")
        self.run("prepare", *[w for f in files for w in ("--data", os.path.join(self.shared, f))], "--tokenizer_type", kind,
                 "--vocab_size", 3000, "--chat_template", template, "--out", folder, "--block_size", 512)
        return folder, Counter(folder)

    def same(self, ours, report, what):
        for key, value in report.items():
            assert ours[key] == value, (what, key, ours[key], value)
            self.checked += 1

    def conversations(self, file, folder, counter, train_on, block, packing):
        path = os.path.join(self.shared, file)
        messages = [messages_of(r) for r in records_of(path)]
        rendered = [counter.render(m, train_on) for m in messages]
        ours = self.run("inspect", path, "--tokenizer", folder, "--train_on", train_on, "--block_size", block,
                        "--packing", packing, "--data_vars", ",".join(f"{k}={v}" for k, v in VARS.items()), "--show", 10 ** 6)
        report, kept = counts_of(rendered, block, packing)
        report["examples"] = len(messages)
        report["duplicates"] = len(messages) - len({json.dumps(m) for m in messages})
        what = (file, train_on, block, packing)
        self.same(ours, report, what)
        assert len(ours["shown_ids"]) == len(kept)
        for number, (theirs, mine) in enumerate(zip(ours["shown_ids"], kept)):
            assert theirs["ids"] == mine[0] and theirs["weights"] == mine[1], (what, number)
        if packing == "best_fit":
            fewest = fewest_rows([len(ids) for ids, _ in kept], block)
            assert fewest <= ours["rows"] <= fewest * 1.02 + 1, (what, ours["rows"], fewest)
        assert abs(ours["fill"] - report["tokens"] / (ours["rows"] * block)) < 1e-12, what
        return f"{file} {train_on} {block} {packing}: {ours['examples']} examples, {ours['tokens']} tokens, " \
               f"{ours['learned_tokens']} learned, {ours['rows']} rows"

    def documents(self, file, folder, counter, block):
        path = os.path.join(self.shared, file)
        if file.endswith(".txt"):
            with open(path, newline="") as f:
                texts = [f.read().replace("\r\n", "\n")]
        else:
            texts = [r["text"] for r in records_of(path)]
        rendered = []
        for text in texts:
            assert not any(s in text for s in counter.specials)
            ids = counter.ids(text) + [counter.auto.eos_token_id]
            rendered.append((ids, [0.0] + [1.0] * (len(ids) - 1)))
        report, _ = counts_of(rendered, block, "sequential", is_text=True)
        report["examples"] = len(texts)
        report["duplicates"] = len(texts) - len(set(texts))
        ours = self.run("inspect", path, "--tokenizer", folder, "--block_size", block)
        self.same(ours, report, (file, block))
        return f"{file}: {ours['examples']} documents, {ours['tokens']} tokens, {ours['rows']} rows"

    def several(self, folder, counter):
        """Weights, and an overlap of training and validation data."""
        alpaca = records_of(os.path.join(self.shared, "alpaca_en_demo.json"))
        held_out = alpaca[10:60] + [{"instruction": f"question {i}", "input": "", "output": "yes"} for i in range(7)]
        with open(self.path("held_out.json"), "w") as f:
            json.dump(held_out, f)
        with open(self.path("train.json"), "w") as f:
            json.dump(alpaca[30:], f)
        identity = os.path.join(self.shared, "identity.json")
        ours = self.run("inspect", self.path("train.json") + "*2", "--data", identity + "*0.5", "--val_data",
                        self.path("held_out.json"), "--tokenizer", folder, "--block_size", 4096, "--packing", "none")
        train = [messages_of(r) for r in alpaca[30:]]
        n = len(records_of(identity))
        half = math.floor(n / 2 + 0.5)
        seen = {json.dumps(m) for m in train}
        overlap = sum(json.dumps(messages_of(r)) in seen for r in held_out)
        assert 30 <= overlap < len(held_out)
        self.same(ours, {"examples": len(train) + n, "rows": 2 * len(train) + half, "overlap": overlap,
                         "dropped": {"left out by the data weight 0.5": n - half}}, "weights")
        validation, _ = counts_of([counter.render(messages_of(r), "assistant") for r in held_out], 4096, "none")
        self.same(ours["validation"], validation, "validation")
        return f"weights and overlap: {ours['rows']} rows, {overlap} of {len(held_out)} held out in the training data too"


def main():
    program, shared = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    if not os.path.isdir(shared):
        print("skipped: ../shared/data is not there")
        return
    checks = Checks(program, shared)
    chats = ["alpaca_en_demo.json", "identity.json", "v1_sft_demo.jsonl", "glaive_toolcall_en_demo.json"]
    folder, counter = checks.tokenizer(chats, "bpe", "chatml")
    for file in chats:
        print(checks.conversations(file, folder, counter, "assistant", 512, "best_fit"), flush=True)
        print(checks.conversations(file, folder, counter, "last", 256, "none"), flush=True)
        print(checks.conversations(file, folder, counter, "all", 1024, "none"), flush=True)
    print(checks.several(folder, counter), flush=True)
    for kind, template in [("unigram", "alpaca"), ("char", "llama3")]:
        folder, counter = checks.tokenizer(["identity.json", "alpaca_en_demo.json"], kind, template)
        print(checks.conversations("alpaca_en_demo.json", folder, counter, "assistant", 300, "none"), flush=True)
    for file in ["c4_demo.jsonl", "tinyshakespeare.txt"]:
        folder, counter = checks.tokenizer([file], "bpe" if file[0] == "c" else "unigram", "chatml")
        print(checks.documents(file, folder, counter, 256), flush=True)
    print(f"{checks.checked} counts equal")


if __name__ == "__main__":
    main()
