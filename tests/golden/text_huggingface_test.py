"""Tokenizers and chat templates saved by this program give the same ids in tokenizers and
transformers (and, for text without U+2581, in sentencepiece itself).

    python text_huggingface_test.py TEXT_TOOL [SHARED_DATA_FOLDER]

One difference is meant: Hugging Face finds the names of special tokens inside plain text, this
program never does. So texts are compared with encode_special_tokens (split_special_tokens) set,
which turns that off; test_special_names_in_text shows the difference itself.
"""

import json
import os
import random
import subprocess
import sys
import tempfile

import sentencepiece
import tokenizers
import transformers

TYPES = ["bpe", "unigram", "char"]
NAMES = ["<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
FRAGMENTS = [" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "a", "aa", "aaa", "ab", "aba", "b", "the", "The ",
             " the", "\u2581", "\u2581\u2581", "\u2585", "<", ">", "<0x41>", "<0x0A>", "<0xe2>", "<|", "|>",
             "0x41>", "\0", "\x01", "\x7f", "\ufeff", "\ufffd", "\u00a0", "\u200b", "\u3000", "e\u0301",
             "\u00e9", "\U0001f469\u200d\U0001f467", "\u4f60\u597d", "1234", "12 34", "don't", "...", "!!!!",
             "    if x:\n\treturn", "<span>", "</div>", "<s", "s>"] + NAMES


class Checks:
    def __init__(self, tool, shared):
        self.tool = tool
        self.shared = shared if shared and os.path.isdir(shared) else None
        self.folder = tempfile.TemporaryDirectory()
        self.documents = self.read_documents()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run(self, *arguments):
        subprocess.run([self.tool, *arguments], check=True)

    def write(self, name, value):
        with open(self.path(name), "w") as f:
            json.dump(value, f)
        return self.path(name)

    def read_documents(self):
        if not self.shared:
            rng = random.Random(1)
            words = "the cat sees a dog banana garden été 漢字 aaaa abab if return { } 12 345 <b> x<y".split()
            return [" ".join(rng.choices(words, k=30)) + "\n\n    " + rng.choice(words) for _ in range(300)]
        with open(os.path.join(self.shared, "tinyshakespeare.txt")) as f:
            documents = [f.read()[:300000]]
        with open(os.path.join(self.shared, "c4_demo.jsonl")) as f:
            documents += [json.loads(line)["text"] for line in f]
        with open(os.path.join(self.shared, "alpaca_en_demo.json")) as f:
            documents += [r["instruction"] + "\n" + r["input"] + "\n" + r["output"] for r in json.load(f)]
        return documents

    def fuzz(self, n, seed):
        rng = random.Random(seed)
        texts = []
        for _ in range(n):
            text = ""
            for _ in range(rng.randrange(25)):
                kind = rng.random()
                if kind < 0.6:
                    text += rng.choice(FRAGMENTS)
                elif kind < 0.75:
                    text += rng.choice("ab \n") * rng.randrange(1, 9)
                elif kind < 0.9:
                    text += rng.choice(self.documents)[:4000].split(" ")[rng.randrange(3):][0][:20]
                else:
                    c = rng.randrange(0x110000)
                    text += "" if 0xD800 <= c < 0xE000 else chr(c)
            texts.append(text)
        return texts

    def train(self, kind, template, name=""):
        folder = self.path(f"{kind}_{template}{name}")
        self.run("train", kind, "2000", self.write("documents.json", self.documents), template, folder)
        return folder

    def ours(self, folder, texts):
        self.run("encode", folder, self.write("texts.json", texts), self.path("ids.json"))
        with open(self.path("ids.json")) as f:
            return json.load(f)

    # -- checks

    def same_ids(self, kind):
        folder = self.train(kind, "chatml")
        texts = self.documents + self.fuzz(2500, seed=TYPES.index(kind))
        ours = self.ours(folder, texts)
        fast = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        fast.encode_special_tokens = True
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        piece = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
        assert len(auto) == fast.get_vocab_size() == piece.vocab_size()
        alone = 0
        for number, (text, (ids, inverse)) in enumerate(zip(texts, ours)):
            assert inverse, (kind, number, text)
            theirs = fast.encode(text, add_special_tokens=False).ids
            assert ids == theirs, (kind, number, text[:200], ids[:60], theirs[:60])
            assert fast.decode(ids, skip_special_tokens=False) == text, (kind, number, text)
            if number % 10 == 0:
                theirs = auto(text, split_special_tokens=True)["input_ids"]
                assert ids == theirs, (kind, number, text[:200])
            special = any(name in text for name in NAMES) or "<0x" in text
            if "\u2581" not in text and not special and len(text) < 2000:
                alone += 1
                assert ids == piece.encode(text), (kind, number, text, ids, piece.encode(text))
        assert alone > 300, alone
        return f"{kind}: {len(texts)} texts as tokenizers, {alone} of them as sentencepiece"

    def same_ids_beside_a_model(self, model_type):
        """A config.json beside the tokenizer must not change which class reads it."""
        folder = self.train("bpe", "chatml", model_type)
        configuration = transformers.AutoConfig.for_model(model_type)
        configuration.save_pretrained(folder)
        # transformers 5 reads every tokenizer beside a qwen2 model as Qwen2Tokenizer, whatever its
        # tokenizer_config.json says; there the class has to be named.
        by_name = model_type == "qwen2"
        loader = transformers.PreTrainedTokenizerFast if by_name else transformers.AutoTokenizer
        auto = loader.from_pretrained(folder)
        texts = self.fuzz(300, seed=9)
        for text, (ids, _) in zip(texts, self.ours(folder, texts)):
            assert ids == auto(text, split_special_tokens=True)["input_ids"], (model_type, text)
        return f"{model_type} config.json beside it: {len(texts)} texts"

    def special_names_in_text(self):
        folder = self.train("unigram", "chatml")
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        text = "a<|im_end|>b"
        end = auto.convert_tokens_to_ids("<|im_end|>")
        assert end in auto(text)["input_ids"]
        (ids, inverse), = self.ours(folder, [text])
        assert end not in ids and inverse
        assert (auto.bos_token, auto.eos_token, auto.pad_token) == ("<s>", "</s>", "<pad>")
        return "names of special tokens in text: parsed there, text here"

    def templates(self, name):
        folder = self.train("bpe", name)
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        rng = random.Random(3)
        conversations = []
        for document in self.documents[1:200]:
            words = [w for w in document.split() if "<" not in w][:60]
            say = lambda: " ".join(rng.choices(words, k=rng.randrange(1, 12))) if words else "x"
            messages = [{"role": "system", "content": say()}] if rng.random() < 0.4 else []
            for _ in range(rng.randrange(1, 4)):
                messages.append({"role": "user", "content": say() + rng.choice(["", "\nmore\n\n- x"])})
                if rng.random() < 0.3:
                    messages[-1]["input"] = say()
                messages.append({"role": "assistant", "content": say()})
            conversations.append(messages)
        self.run("render", folder, name, self.write("conversations.json", conversations), self.path("out.json"))
        with open(self.path("out.json")) as f:
            ours = json.load(f)
        for messages, (prompt, whole) in zip(conversations, ours):
            render = lambda m, g: auto.apply_chat_template(m, add_generation_prompt=g, tokenize=True,
                                                           return_dict=False)
            assert render(messages[:-1], True) == prompt, (name, auto.decode(prompt), messages)
            assert render(messages, False) == whole, (name, auto.decode(whole), messages)
        return f"{name}: {len(conversations)} conversations as apply_chat_template"

    def foreign_models(self):
        """A sentencepiece model of somebody else's, with normalisation and a dummy prefix."""
        lines = [line for d in self.documents[:200] for line in d.split("\n") if line]
        results = []
        for kind, rule in [("unigram", "nmt_nfkc"), ("bpe", "identity")]:
            folder = self.path(f"foreign_{kind}")
            os.makedirs(folder)
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_prefix=os.path.join(folder, "tokenizer"), vocab_size=1500,
                model_type=kind, byte_fallback=True, normalization_rule_name=rule, minloglevel=2,
                hard_vocab_limit=False)
            piece = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
            self.run("save", folder, folder + "_saved")
            auto = transformers.AutoTokenizer.from_pretrained(folder + "_saved")
            texts = lines[:300]
            for text, (ids, _) in zip(texts, self.ours(folder, texts)):
                assert ids == piece.encode(text), text
                theirs = auto(text, split_special_tokens=True)["input_ids"]
                assert ids == theirs, (kind, text[:200], piece.decode(ids), auto.decode(theirs))
            results.append(kind)
        return f"foreign models ({', '.join(results)}) as sentencepiece and transformers"


def main():
    checks = Checks(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    if not checks.shared:
        print("shared data is absent: generated documents stand in for it")
    for kind in TYPES:
        print(checks.same_ids(kind), flush=True)
    for model_type in ["llama", "gpt2", "qwen2"]:
        print(checks.same_ids_beside_a_model(model_type), flush=True)
    print(checks.special_names_in_text(), flush=True)
    for name in ["chatml", "alpaca", "llama3", "nanochat"]:
        print(checks.templates(name), flush=True)
    print(checks.foreign_models(), flush=True)


if __name__ == "__main__":
    main()
