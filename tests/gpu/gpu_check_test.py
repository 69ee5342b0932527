"""scripts/gpu_check.sh where there is no GPU: every part says so by itself, in the table and in the JSON.

    python3 tests/gpu/gpu_check_test.py
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A bundle whose programs end as the real ones do without a driver; one bench works, one hangs.
NO_GPU = "#!/bin/bash\necho \"$(basename $0): no GPU can be used: CUDA driver version is insufficient\" >&2\nexit 1\n"
BENCH = '''#!/bin/bash
if [ "$1" = roofline ]; then echo '{"gpu": "none", "bf16_tflops": {"median": 1}, "copy_tb_per_s": {"median": 2}}'; exit 0; fi
if [ "$1" = products ]; then echo 'not JSON'; exit 0; fi
''' + NO_GPU.split("\n", 1)[1]
# Trains as the real one would: losses of an optimizer, nearly the same wherever. FAR: the run whose are not.
TRAINS = f'''#!{sys.executable}
import json, os, pathlib, sys
if "--save_interval" in sys.argv:
    sys.exit("resuming is another test")
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run = "_".join(given["--" + name] for name in ("optimizer", "device", "precision"))
folder = pathlib.Path(given["--out_dir"])
folder.mkdir()
first = {{"adamw": 4.0, "muon": 3.0}}[given["--optimizer"]]
factor = {{"fp32": 1.0, "bf16": 1.004, "fp8": 1.006}}[given["--precision"]] + 0.05 * (os.environ.get("FAR") == run)
(folder / "metrics.jsonl").write_text("".join(json.dumps({{"loss": first * factor * 0.99**n}}) + "\\n" for n in range(60)))
'''
LOSSES = {"loss: fp32, as the CPU": "adamw_cuda_fp32", "loss: bf16, as fp32": "adamw_cuda_bf16",
          "loss: fp8, as bf16": "adamw_cuda_fp8", "loss: muon in fp32, as the CPU": "muon_cuda_fp32",
          "loss: muon in bf16, as fp32": "muon_cuda_bf16"}
TORCH = '''import os, sys
class Cuda:
    @staticmethod
    def is_available():
        return False
__file__ = os.path.abspath(__file__)
cuda = Cuda()
'''


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def bundle(folder):
    for name in ("gpu_check.sh", "gpu_check.py"):
        write(folder / name, (ROOT / "scripts" / name).read_text())
    write(folder / "gpu_tests", NO_GPU)
    write(folder / "train_sft", NO_GPU)
    write(folder / "gpu_bench", BENCH)
    write(folder / "bench/gpu_reference.py", "raise SystemExit('no GPU')\n")
    write(folder / "python/torch/__init__.py", TORCH)


def check(folder, out, **variables):
    environment = dict(os.environ, PYTHONPATH=str(folder / "python"), TORCH_PYTHON=sys.executable, **variables)
    return subprocess.run([folder / "gpu_check.sh", out], env=environment, text=True, capture_output=True, timeout=120,
                          check=False)


def main():
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        bundle(folder)
        done = check(folder, folder / "out")
        report = json.loads((folder / "out/gpu_check.json").read_text())
        assert done.returncode == 1, done.stderr
        rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
        assert [row[0].strip("| ") for row in rows] == list(report), done.stdout
        assert len(report) > 15
        good = [name for name, part in report.items() if part["ok"]]
        assert good == ["roofline"], good
        assert "1 TFLOP/s bf16, 2.00 TB/s" in done.stdout
        for name, part in report.items():
            if name == "roofline":
                continue
            assert part["error"], name
            assert "FAILED: " + part["error"].replace("|", "/") in done.stdout, name
        assert "no GPU can be used" in report["124m bf16"]["error"]
        assert "no GPU can be used" in report["tests"]["error"]
        assert "JSONDecodeError" in report["products of 112m"]["error"]

        (folder / "gpu_bench").unlink()  # what is not there is a failure of its parts alone
        done = check(folder, folder / "again")
        report = json.loads((folder / "again/gpu_check.json").read_text())
        assert done.returncode == 1 and "gpu_bench" in report["roofline"]["error"], done.stderr

        write(folder / "train_sft", TRAINS)
        for far, name in (("", None), *((run, name) for name, run in LOSSES.items())):
            check(folder, folder / f"losses{far}", FAR=far)
            report = json.loads((folder / f"losses{far}/gpu_check.json").read_text())
            failed = {part for part in LOSSES if not report[part]["ok"]}
            expected = {name} if name else set()
            if far == "adamw_cuda_bf16":
                expected.add("loss: fp8, as bf16")  # which is as far from it
            assert failed == expected, (far, {part: report[part] for part in LOSSES})
            assert not failed or "%" in report[name]["error"], report[name]
            runs = {path.name for path in (folder / f"losses{far}").glob("*_*") if path.is_dir()}
            assert runs == {*LOSSES.values(), "adamw_cpu_fp32", "muon_cpu_fp32"}, runs

        without = dict(os.environ, TORCH_PYTHON="/nowhere/python3")
        done = subprocess.run([folder / "gpu_check.sh"], env=without, text=True, capture_output=True, check=False)
        assert done.returncode == 2 and "has no torch" in done.stderr, done.stderr
    print("each part for itself")


if __name__ == "__main__":
    main()
