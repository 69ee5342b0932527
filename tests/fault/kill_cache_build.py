"""A token cache whose building is killed again and again ends with the bytes of an uncut one.

    kill_cache_build.py TRAIN_SFT

Parts that were made are kept: the build goes on, it does not begin anew.
"""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

RECORDS = 45000
# Killed as soon as so many parts of 64 are there; "columns": while they are put together.
KILL_AT = (1, 9, 22, 40, 55, "columns", "columns")
STOP_AT = 48  # by Ctrl-C, after the kill at 40


def write_data():
    chance = random.Random(2)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "slept", "in", "the", "sun", "été", "東京"]
    with open("chats.jsonl", "w", encoding="utf-8") as file:
        for i in range(RECORDS):
            reply = " ".join(chance.choice(words) for _ in range(chance.randrange(3, 30)))
            record = {"instruction": f"Say {i % 40000}", "input": "", "output": reply}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    with open("small.txt", "w", encoding="utf-8") as file:
        file.write(" ".join(words) + " Say 0123456789\n")


def prepare(program, cache, threads):
    command = [program, "prepare", "--data", "chats.jsonl", "--tokenizer", "tok", "--packing", "best_fit",
               "--block_size", "256", "--cache_dir", cache, "--threads", str(threads)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def entry(cache):
    names = os.listdir(cache) if os.path.isdir(cache) else []
    return pathlib.Path(cache) / names[0] if names else pathlib.Path("not there yet")


def parts(cache):
    """Names and times of the parts that are there."""
    found = {}
    for path in entry(cache).glob("parts/*.part"):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:
            pass
    return found


def reached(cache, place):
    if place == "columns":
        return any(path.stat().st_size > 0 for path in entry(cache).glob("building/train.*"))
    return len(parts(cache)) >= place


def cut(program, cache, place, number):
    """Sends the signal at that place and returns the exit code; None when the build ended before."""
    before = parts(cache)
    build = prepare(program, cache, threads=2)
    while build.poll() is None:
        try:
            if reached(cache, place):
                build.send_signal(number)
                code = build.wait()
                assert not (entry(cache) / "data").exists(), "committed before it was whole"
                made_again = [name for name, time_ns in before.items() if parts(cache).get(name) != time_ns]
                # Those that two threads were at when the last kill came.
                assert len(made_again) <= 2, f"made again: {made_again}"
                return code
        except FileNotFoundError:
            pass
        time.sleep(0.0005)
    return None


def files(cache):
    return {path.name: path.read_bytes() for path in (entry(cache) / "data").iterdir()}


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_data()
        subprocess.run([program, "prepare", "--data", "small.txt", "--tokenizer_type", "char", "--vocab_size", "400",
                        "--val_split", "0", "--out", "tok", "--cache_dir", "none"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole = prepare(program, "whole", threads=1)
        said = whole.communicate()[0]
        assert whole.returncode == 0, said

        kills = 0
        for place in KILL_AT:
            code = cut(program, "cut", place, signal.SIGKILL)
            kills += code == -signal.SIGKILL
            if code is None:
                break
            if kills == 4:
                stopped = cut(program, "cut", STOP_AT, signal.SIGINT)
                assert stopped == 130, f"exit code {stopped} after SIGINT"
        assert kills >= 5, f"only {kills} kills: the build is too short to be cut"
        last = prepare(program, "cut", threads=2)
        said = last.communicate()[0]
        assert last.returncode == 0, said

        one, other = files("whole"), files("cut")
        assert one.keys() == other.keys() and len(one) == 13, sorted(one)
        for name in one:
            assert one[name] == other[name], f"{name} differs"
        left = sorted(path.name for path in entry("cut").iterdir())
        assert left == [".lock", "data", "rows_train_best_fit_256", "rows_validation_best_fit_256"], left
        print(f"{kills} kills and a stop, the same bytes")


if __name__ == "__main__":
    main()
