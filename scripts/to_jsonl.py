#!/usr/bin/env python3
"""Parquet and Arrow files (and folders of them) to JSON lines, which train_sft reads.

    python scripts/to_jsonl.py data.parquet -o data.jsonl
    python scripts/to_jsonl.py folder/ -o data.jsonl.gz --columns messages
    python scripts/to_jsonl.py a.parquet b.parquet -o - | head

Needs pyarrow (pip install pyarrow). Rows keep their order, columns their names; memory holds one
batch of rows at a time. Columns of bytes and the like stay out. The output appears under its name only when it is whole.
"""

import argparse
import contextlib
import datetime
import gzip
import json
import os
import pathlib
import sys

SUFFIXES = {".parquet", ".arrow", ".feather"}


def files_of(paths):
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
            if not found:
                sys.exit(f"{path}: holds no {', '.join(sorted(SUFFIXES))} file")
            yield from found
        elif path.exists():
            yield path
        else:
            sys.exit(f"{path}: no such file")


def batches(path):
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        yield from pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000)
        return
    with pyarrow.memory_map(str(path)) as source:
        try:  # the file format; datasets saved to disk use the stream format
            reader = pyarrow.ipc.open_file(source)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            source.seek(0)
            yield from pyarrow.ipc.open_stream(source)


def is_trainable(kind):
    """Text, and structures that hold text: what a data format may consist of."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(is_trainable(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind):
        return is_trainable(kind.value_type)
    return (types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
            or types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind))


def without_nulls(value):
    """Parquet gives every struct every field; those a message does not have come as null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return value


def columns_of(schema, wanted, path):
    if wanted:
        missing = [name for name in wanted if name not in schema.names]
        if missing:
            sys.exit(f"{path}: no column {', '.join(missing)}; it has {', '.join(schema.names)}")
        return wanted
    return [field.name for field in schema if is_trainable(field.type)]


@contextlib.contextmanager
def output(path):
    if path == "-":
        yield sys.stdout
        return
    part = path + ".part"
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(part, "wt", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        pathlib.Path(part).unlink(missing_ok=True)
        raise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="Parquet or Arrow files, or folders of them")
    parser.add_argument("-o", "--output", required=True, help="a .jsonl or .jsonl.gz file; - is standard output")
    parser.add_argument("--columns", nargs="+", help="only these; left out: those that hold text or numbers")
    arguments = parser.parse_args()
    try:
        import pyarrow  # said here rather than in the middle of the work
    except ImportError:
        sys.exit("to_jsonl.py needs pyarrow: pip install pyarrow")

    rows = 0
    with output(arguments.output) as out:
        for path in files_of(arguments.paths):
            try:
                for batch in batches(path):
                    names = columns_of(batch.schema, arguments.columns, path)
                    for row in batch.select(names).to_pylist():
                        out.write(json.dumps(without_nulls(row), ensure_ascii=False) + "\n")
                        rows += 1
            except pyarrow.ArrowInvalid as error:
                sys.exit(f"{path}: not a whole Parquet or Arrow file: {error}")
    print(f"{rows} rows written to {arguments.output}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
