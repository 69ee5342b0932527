"""scripts/to_jsonl.py: files that pyarrow wrote, read back by train_sft."""

import gzip
import json
import pathlib
import subprocess
import sys

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from conftest import as_json

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "to_jsonl.py"
CHATS = [{"messages": [{"role": "user", "content": f"What is {i} + {i}? é\u2028", "name": "Ann" if i % 2 else None},
                       {"role": "assistant", "content": f"{2 * i}.\n", "name": None}], "source": "sums", "score": i / 2}
         for i in range(2500)]


def to_jsonl(*arguments, fails=False):
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0) == fails, done.stderr
    return done


def lines(text):
    return [json.loads(line) for line in text.split("\n") if line]


def without_names_that_are_null(chat):
    return {**chat, "messages": [{key: value for key, value in message.items() if value is not None}
                                 for message in chat["messages"]]}


EXPECTED = [without_names_that_are_null(chat) for chat in CHATS]


@pytest.fixture
def table():
    return pyarrow.Table.from_pylist(CHATS)


def test_every_row_of_several_batches_in_order(tmp_path, table):
    pyarrow.parquet.write_table(table, tmp_path / "chats.parquet", row_group_size=700)
    to_jsonl(tmp_path / "chats.parquet", "-o", tmp_path / "chats.jsonl")
    assert lines((tmp_path / "chats.jsonl").read_text(encoding="utf-8")) == EXPECTED
    assert lines(to_jsonl(tmp_path / "chats.parquet", "-o", "-").stdout) == EXPECTED


def test_arrow_files_streams_and_folders(tmp_path, table):
    folder = tmp_path / "parts"
    folder.mkdir()
    with pyarrow.OSFile(str(folder / "a.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.slice(0, 1000), max_chunksize=300)
    with pyarrow.OSFile(str(folder / "b.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table.slice(1000, 1000), max_chunksize=300)
    pyarrow.feather.write_feather(table.slice(2000), str(folder / "c.feather"))
    to_jsonl(folder, "-o", tmp_path / "all.jsonl.gz")
    with gzip.open(tmp_path / "all.jsonl.gz", "rt", encoding="utf-8") as file:
        assert lines(file.read()) == EXPECTED


def test_columns(tmp_path):
    table = pyarrow.table({"text": ["one", "two"], "picture": [b"\x00\xff", None], "id": [7, 8]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert lines(to_jsonl(tmp_path / "a.parquet", "-o", "-").stdout) == [{"text": "one", "id": 7}, {"text": "two", "id": 8}]
    assert lines(to_jsonl(tmp_path / "a.parquet", "-o", "-", "--columns", "text").stdout) == [{"text": "one"}, {"text": "two"}]
    said = to_jsonl(tmp_path / "a.parquet", "-o", tmp_path / "a.jsonl", "--columns", "txt", fails=True).stderr
    assert "no column txt; it has text, picture, id" in said
    assert not (tmp_path / "a.jsonl").exists()


def test_a_file_cut_short_leaves_no_output(tmp_path, table):
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    said = to_jsonl(tmp_path / "a.parquet", tmp_path / "b.parquet", "-o", tmp_path / "out.jsonl", fails=True).stderr
    assert "b.parquet" in said and "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]
    assert "no such file" in to_jsonl(tmp_path / "c.parquet", "-o", "-", fails=True).stderr


def test_what_comes_out_is_what_train_sft_reads(tmp_path, table):
    pyarrow.parquet.write_table(table, tmp_path / "chats.parquet")
    to_jsonl(tmp_path / "chats.parquet", "-o", tmp_path / "chats.jsonl")
    as_json("prepare", "--data", "chats.jsonl", "--tokenizer_type", "char", "--cache_dir", "none", "--out", "tok", cwd=tmp_path)
    counted = as_json("inspect", "chats.jsonl", "--tokenizer", "tok", cwd=tmp_path)
    assert counted["examples"] == len(CHATS)
