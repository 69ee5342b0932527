"""The house's order, checked: includes point only downward, the torch-free parts see no torch header,
files stay short enough to read, and the README's generated parts are up to date.

    python3 tests/structure_test.py [path of the built program]
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ["base", "config", "dist", "report", "text", "data", "interop", "ops", "model", "collective", "train", "plan", "cli"]
TORCH_FREE = {"base", "config", "dist", "report", "text", "data", "interop"}
SIBLINGS = {("interop", "data")}  # both stand on text; neither may see the other
MAX_LINES = 500
INCLUDE = re.compile(r'#include\s+(["<])([^">]+)[">]')


def sources():
    for folder in ("include/train_sft", "src", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".h", ".cpp", ".py"}:
                yield path


def part_of(path):
    parts = path.relative_to(ROOT).parts
    if parts[0] == "include":
        return parts[2]
    return parts[1] if parts[0] == "src" else None


def included_part(name):
    pieces = name.split("/")
    if pieces[0] == "train_sft" and len(pieces) > 2:
        return pieces[1]
    return pieces[0] if pieces[0] in PARTS and len(pieces) > 1 else None


def check_includes(path, text):
    part = part_of(path)
    if part is None:
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        name, where = match.group(2), f"{path.relative_to(ROOT)}:{number}"
        if part in TORCH_FREE and re.match(r"(ATen|c10|torch|caffe2)/", name):
            yield f"{where}: {part} includes the torch header {name}"
        if name.startswith("spdlog") and path.name != "log.cpp":
            yield f"{where}: spdlog is used only behind base/log.h"
        other = included_part(name)
        if other is None or other == part:
            continue
        if PARTS.index(other) > PARTS.index(part) or (part, other) in SIBLINGS:
            yield f"{where}: {part} may not include {name}: it stands above"


def types_of(text):
    """Types defined at the level of a namespace that other files can name, as namespace::Name."""
    spaces = []
    for line in text.splitlines():
        opened = re.match(r"namespace ?([\w:]*) ?\{", line)
        if opened:
            spaces.append(opened.group(1))
        elif line.startswith("}  // namespace") and spaces:
            spaces.pop()
        defined = re.match(r"(?:struct|class|enum class|enum|union) (\w+)(?: final)?(?: :[^;]*)?(?: \{|$)", line)
        if defined and "" not in spaces:
            yield "::".join([*spaces, defined.group(1)])


def check_names(defined):
    """Two types of one name: the linker keeps one std::vector of it for both."""
    for name, paths in sorted(defined.items()):
        if len(paths) > 1:
            yield f"{name} is defined in {' and in '.join(sorted(paths))}: name one of them otherwise"


def check_readme(program):
    text = (ROOT / "README.md").read_text()
    match = re.search(r"<!-- options[^>]*-->\n(.*?)<!-- /options -->", text, re.S)
    table = subprocess.run([program, "options", "--markdown"], capture_output=True, text=True, check=True).stdout
    if not match or match.group(1).strip() != table.strip():
        yield "README.md: the option table differs from `train_sft options --markdown`; paste its output there"


def main():
    problems = []
    files = 0
    defined = {}
    for path in sources():
        text = path.read_text()
        files += 1
        lines = text.count("\n")
        if lines > MAX_LINES:
            problems.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {MAX_LINES}")
        problems += check_includes(path, text)
        if part_of(path) and path.suffix != ".py":
            for name in types_of(text):
                defined.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    problems += check_names(defined)
    if len(sys.argv) > 1:
        problems += check_readme(sys.argv[1])
    print("\n".join(problems) if problems else f"{files} files in order")
    return 1 if problems or files < 50 else 0


if __name__ == "__main__":
    sys.exit(main())
