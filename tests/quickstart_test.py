#!/usr/bin/env python3
"""The quickstart in seconds: its world is the same every time and keeps its promises; its phases run,
stop with a reason and go on. How well a trained model answers is for scripts/quickstart.sh itself.

    tests/quickstart_test.py PROGRAM
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))
import make_world  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])


def key(record):
    return record["instruction"], record["input"]


class World(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = make_world.make_world(7)
        cls.text = "".join(paragraph + "\n" for paragraph in cls.world[0])

    def test_same_seed_same_world(self):
        self.assertEqual(make_world.make_world(7), self.world)
        self.assertNotEqual(make_world.make_world(8), self.world)

    def test_held_out_is_disjoint_and_large_enough(self):
        _, train, held_out = self.world
        self.assertGreaterEqual(len(held_out), 200)
        self.assertFalse({key(r) for r in train} & {key(r) for r in held_out})
        self.assertEqual(len({key(r) for r in held_out}), len(held_out))
        self.assertEqual({r["category"] for r in train}, {r["category"] for r in held_out})
        self.assertGreaterEqual(len({r["category"] for r in train}), 5)

    def test_held_out_facts_are_in_the_pretraining_text_alone(self):
        _, train, held_out = self.world
        known_from_text = [r for r in held_out if r["category"] in ("people", "towns", "creatures", "arithmetic")]
        self.assertGreater(len(known_from_text), 100)
        trained = "\n".join(r["instruction"] for r in train)
        for record in known_from_text:
            self.assertIn(f"{record['instruction']}\nassistant\n{record['output']}\n", self.text)
            self.assertNotIn(record["instruction"], trained)

    def test_held_out_exercises_are_not_in_the_text(self):
        for record in self.world[2]:
            if record["input"]:
                self.assertNotIn(f"{record['instruction']}\n{record['input']}\n", self.text)

    def test_a_leak_is_noticed(self):
        _, train, held_out = self.world
        with self.assertRaisesRegex(AssertionError, "held-out instruction is trained on"):
            make_world.check(train + [held_out[0]], held_out, [], [])


class Phases(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.example = self.folder / "example"
        shutil.copytree(ROOT / "examples" / "quickstart", self.example)
        tiny = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 64, "batch_size": 4, "threads": 1}
        self.change("train_sft", **tiny)
        self.change("base", max_iters=8)
        self.change("sft", max_iters=8)

    def change(self, name, **values):
        path = self.example / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def quickstart(self, code):
        environment = {**os.environ, "SKIP_SETUP": "1", "TRAIN_SFT": PROGRAM, "EXAMPLE": str(self.example),
                       "QUICKSTART": str(self.folder / "work"), "OMP_WAIT_POLICY": "passive"}
        result = subprocess.run([ROOT / "scripts" / "quickstart.sh"], env=environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
        self.assertEqual(result.returncode, code, (result.stdout + result.stderr)[-3000:])
        return result.stdout + result.stderr

    def test_stops_with_a_reason_goes_on_and_skips_what_is_done(self):
        blocked = self.folder / "work" / "sft"  # a file where the SFT run wants its folder
        blocked.parent.mkdir()
        blocked.write_text("")
        said = self.quickstart(code=5)
        self.assertIn("sft ended with code 5", said)
        blocked.unlink()

        said = self.quickstart(code=0)
        self.assertIn("base: done before", said)
        self.assertIn("Exact match on 308 held-out instructions", said)
        for run in ("base", "sft", "sft_only"):
            self.assertTrue((self.folder / "work" / run / "best_model" / "model.safetensors").exists())

        weights = self.folder / "work" / "sft" / "best_model" / "model.safetensors"
        written = weights.stat().st_mtime_ns
        said = self.quickstart(code=0)
        self.assertIn("accuracy_sft_only: done before", said)
        self.assertEqual(weights.stat().st_mtime_ns, written)

        self.change("sft", max_iters=9)
        self.assertIn("with other settings", self.quickstart(code=2))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
