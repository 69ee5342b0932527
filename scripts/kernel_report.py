#!/usr/bin/env python3
"""What nvcc says of the CUDA kernels: registers, shared memory, stack and spills of each, on each kind of GPU.

    scripts/kernel_report.py build/cuda [--markdown]

Reads the *.ptxas files that the build leaves beside the kernels' objects. Exit status 1 when a kernel spills
registers or keeps anything in local memory, or when there is nothing to read.
"""

import argparse
import pathlib
import re
import subprocess
import sys

COMPILING = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
# Kernels for float, and for rows that are no multiple of eight elements.
SELDOM = re.compile(r"<float|<bfloat16, 1>|<bfloat16, 1,|attention_forward|_gradient_kernel|unsigned short|unsigned int>")
# Parts of a demangled name that say nothing here.
NOISE = re.compile(r"\(anonymous namespace\)::|train_sft::ops::cuda::|_?GLOBAL__N_+\w*::|^void |__nv_")


def demangled(names):
    try:
        run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return dict(zip(names, names))
    return dict(zip(names, run.stdout.splitlines()))


def kernels(folder):
    """(file, mangled name, architecture, registers, shared bytes, stack bytes, spilled bytes) of each kernel."""
    for path in sorted(folder.glob("*.ptxas")):
        name = architecture = None
        stack = spilled = 0
        for line in path.read_text().splitlines():
            if match := COMPILING.search(line):
                name, architecture = match.groups()
                stack = spilled = 0
            elif match := STACK.search(line):
                stack, spilled = int(match[1]), int(match[2]) + int(match[3])
            elif (match := USED.search(line)) and name:
                yield path.stem, name, architecture, int(match[1]), int(match[2] or 0), stack, spilled
                name = None


def short(name):
    """norm_forward_kernel<bfloat16, 8, 4, true> of a demangled signature."""
    name = NOISE.sub("", name)
    end = name.find(">(")
    return name[: end + 1] if end >= 0 else name.split("(")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--markdown", action="store_true", help="a table of what bf16 runs use, for docs/gpu.md")
    arguments = parser.parse_args()
    rows = list(kernels(arguments.folder))
    if not rows:
        sys.exit(f"{arguments.folder}: no *.ptxas with kernels in it")
    names = demangled([row[1] for row in rows])
    if arguments.markdown:
        architecture = rows[0][2] if len({r[2] for r in rows}) == 1 else "sm_90a"
        print(f"| kernel ({architecture}) | registers | shared bytes | spilled bytes |\n|---|---|---|---|")
        for _, name, of, registers, shared, _, spilled in rows:
            if of == architecture and not SELDOM.search(short(names[name])):
                print(f"| `{short(names[name])}` | {registers} | {shared} | {spilled} |")
    bad = [row for row in rows if row[5] > 0 or row[6] > 0]
    for file, name, architecture, registers, _, stack, spilled in bad:
        print(f"{file}.cu, {architecture}: {short(names[name])} spills {spilled} bytes, stack {stack} "
              f"({registers} registers)", file=sys.stderr)
    if not arguments.markdown:
        most = max(row[3] for row in rows)
        print(f"{len(rows)} kernels for {', '.join(sorted({r[2] for r in rows}))}: at most {most} registers, "
              f"{len(bad)} with spills or a stack")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
