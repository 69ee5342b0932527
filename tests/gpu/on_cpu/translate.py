"""A .cu file as C++ for the emulator: kernel<<<grid, block, 0, stream>>>(arguments) becomes a call.

    translate.py KERNELS.cu OUT.cpp
"""

import pathlib
import re
import sys

LAUNCH = re.compile(r"(\w+(?:<[^<>;]*>)?)\s*<<<(.*?),\s*0,\s*stream>>>\(", re.S)


def closing(text, start):
    depth = 1
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError("a launch without an end")


def main():
    source, out = map(pathlib.Path, sys.argv[1:])
    text, place, result, launches = source.read_text(), 0, [], 0
    while match := LAUNCH.search(text, place):
        end = closing(text, match.end())
        depth, cut = 0, None
        for i, character in enumerate(match[2]):  # the last comma outside brackets parts grid and block
            depth += {"(": 1, ")": -1}.get(character, 0)
            if character == "," and depth == 0:
                cut = i
        grid, block = match[2][:cut], match[2][cut + 1:]
        result += [text[place:match.start()],
                   f"emulator::launch({grid}, {block}, stream, [=] {{ {match[1]}({text[match.end():end]}); }})"]
        place, launches = end + 1, launches + 1
    if launches == 0 or "<<<" in text[place:]:
        sys.exit(f"{source}: launches that are not understood")
    out.write_text(f'#line 1 "{source}"\n' + "".join(result) + text[place:])


if __name__ == "__main__":
    main()
