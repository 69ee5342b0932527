"""The parts of scripts/gpu_check.sh: each runs by itself under a limit, and none can hide another."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
BUNDLE = (HERE / "gpu_tests").exists()
ROOT = HERE if BUNDLE else HERE.parent
BUILD = HERE if BUNDLE else ROOT / "build"
TESTS = BUILD / "gpu_tests" if BUNDLE else BUILD / "tests/gpu/gpu_tests"
BENCH, PROGRAM, PLUGIN = BUILD / "gpu_bench", BUILD / "train_sft", BUILD / "libtrain_sft_cuda.so"
REFERENCE, CONFIG = ROOT / "bench/gpu_reference.py", ROOT / "configs/tiny.json"
TOTAL_S = 465  # of the 8 minutes; the rest is for starting and writing
ROWS = {"124m": 32, "112m": 16, "1.2b": 16}
BEGIN = time.monotonic()


class Failed(Exception):
    pass


def left():
    return TOTAL_S - (time.monotonic() - BEGIN)


def run(command, limit, ours=True, cwd=None, **variables):
    """The output of a command; Failed with its last lines otherwise."""
    limit = min(limit, left())
    if limit < 5:
        raise Failed("no time left")
    environment = dict(os.environ, TRAIN_SFT_CUDA_PLUGIN=str(PLUGIN), **variables)
    if ours:  # python finds its own libraries
        environment["LD_LIBRARY_PATH"] = os.environ["GPU_CHECK_LIBRARIES"]
    try:
        done = subprocess.run([str(part) for part in command], env=environment, cwd=cwd, text=True, timeout=limit,
                              stdin=subprocess.DEVNULL, capture_output=True)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"not done within {limit:.0f} s") from error
    except OSError as error:
        raise Failed(str(error)) from error
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise Failed(f"exit status {done.returncode}: " + " / ".join(lines[-6:])[-900:])
    return done.stdout


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


def tests(out):
    report = out / "tests.json"
    try:
        run([TESTS, "--gtest_brief=1", f"--gtest_output=json:{report}"], 120)
        failure = None
    except Failed as error:
        failure = error
    if not report.exists():
        raise failure or Failed("no report")
    cases = [case for suite in json.loads(report.read_text())["testsuites"] for case in suite["testsuite"]]
    failed = [f"{case['classname']}.{case['name']}" for case in cases if case.get("failures")]
    skipped = sum(case["result"] == "SKIPPED" for case in cases)
    if failed or failure:
        first = next((case["failures"][0]["failure"] for case in cases if case.get("failures")), str(failure))
        raise Failed(f"{len(failed)} of {len(cases)} failed: {', '.join(failed[:8])}; the first: {first[:600]}")
    if skipped == len(cases) - 1:
        raise Failed("all skipped: no GPU")
    return {"passed": len(cases) - skipped, "skipped": skipped}


def sanitizer(tool, filters, limit):
    def part(_):
        program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        run([program, "--tool", tool, "--error-exitcode", "9", TESTS, "--gtest_brief=1", f"--gtest_filter={filters}"],
            limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1")  # each tensor an allocation, whose ends are watched
        return {"tool": tool}
    return part


def roofline(_):
    return last_json(run([BENCH, "roofline"], 60))


def ours(model, *more):
    return lambda _: last_json(run([BENCH, model, ROWS[model], 20, *more], 60))


def products(model):
    return lambda _: last_json(run([BENCH, "products", model, ROWS[model]], 60))


def reference(model, *more):
    return lambda _: last_json(run([sys.executable, REFERENCE, model, ROWS[model], 20, *more], 90, ours=False))


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record.get("loss") is not None]


def train(out, name, *more):
    text = out / "text.txt"
    if not text.exists():
        text.write_text("".join(f"{n} times {n + 3} is {n * (n + 3)}, and that is that.\n" for n in range(6000)))
    run([PROGRAM, "--config", CONFIG, "--data", text, "--max_iters", 60, "--eval_interval", -1, "--log_interval", 1,
         "--out_dir", out / name, *more], 60, cwd=out)
    return losses(out / name)


def apart(a, b):
    return max(abs(x - y) / y for x, y in zip(a, b, strict=True))


TRAINED = {}  # losses of runs that several parts compare with


def parity(precision, other, limit, optimizer="adamw"):
    """The program on the GPU in a precision, against itself elsewhere: the same losses."""
    def losses_of(out, device, of):
        name = f"{optimizer}_{device}_{of}"
        if name not in TRAINED:
            TRAINED[name] = train(out, name, "--device", device, "--precision", of, "--optimizer", optimizer)
        return TRAINED[name]

    def part(out):
        there = losses_of(out, "cuda", precision)
        device, of = other
        worst = apart(there, losses_of(out, device, of))
        if worst > limit:
            raise Failed(f"losses of {precision} on the GPU are {worst:.2%} from {of} on {device}, at most {limit:.2%}")
        return {"worst": worst}
    return part


def resume(out):
    """A run cut in two has the bits of the whole."""
    common = ["--device", "cuda", "--precision", "bf16", "--save_interval", 20, "--dropout", 0.1]
    train(out, "whole", *common)
    cut = [PROGRAM, "--config", CONFIG, "--data", out / "text.txt", "--max_iters", 60, "--eval_interval", -1,
           "--log_interval", 1, "--out_dir", out / "cut", *common]
    environment = dict(os.environ, TRAIN_SFT_CUDA_PLUGIN=str(PLUGIN),
                       LD_LIBRARY_PATH=os.environ["GPU_CHECK_LIBRARIES"])
    process = subprocess.Popen([str(part) for part in cut], env=environment, cwd=out, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waited = time.monotonic() + 40
    while process.poll() is None and time.monotonic() < waited and not (out / "cut/step_00000020").exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    run([*cut, "--resume", "auto"], 60, cwd=out)
    weights = [(out / name / "latest/model.safetensors").read_bytes() for name in ("whole", "cut")]
    if losses(out / "whole") != losses(out / "cut") or weights[0] != weights[1]:
        raise Failed("the resumed run differs from the whole one")
    return {"steps": len(losses(out / "cut"))}


SMALL = "Shapes/Rows.*/7:Shapes/Rows.*/8:Shapes/Rows.*/9:Shapes/HeadShapes.*:Update.A*:Update.Muons*:EightBits.T*:EightBits.S*"
PARTS = [
    ("tests", tests),
    ("roofline", roofline),
    ("124m bf16", ours("124m")),
    ("112m bf16", ours("112m")),
    ("1.2b bf16", ours("1.2b")),
    ("112m fp8", ours("112m", "fp8")),
    ("1.2b fp8", ours("1.2b", "fp8")),
    ("loss: fp32, as the CPU", parity("fp32", ("cpu", "fp32"), 1e-3)),
    ("loss: bf16, as fp32", parity("bf16", ("cpu", "fp32"), 1e-2)),
    ("loss: fp8, as bf16", parity("fp8", ("cuda", "bf16"), 1e-2)),
    ("loss: muon in fp32, as the CPU", parity("fp32", ("cpu", "fp32"), 1e-3, "muon")),
    ("loss: muon in bf16, as fp32", parity("bf16", ("cpu", "fp32"), 1e-2, "muon")),
    ("resume, bit for bit", resume),
    ("products of 112m", products("112m")),
    ("products of 1.2b", products("1.2b")),
    ("124m eager PyTorch", reference("124m")),
    ("112m eager PyTorch", reference("112m")),
    ("1.2b eager PyTorch", reference("1.2b")),
    ("memcheck", sanitizer("memcheck", SMALL, 70)),
    ("racecheck", sanitizer("racecheck", SMALL, 70)),
    ("124m without graphs", ours("124m", "eager")),
    ("124m torch.compile", reference("124m", "--compile")),
    ("112m torch.compile", reference("112m", "--compile")),
    ("1.2b torch.compile", reference("1.2b", "--compile")),
]


def told(result, peak):
    if "tokens_per_s" in result:
        rate = result["tokens_per_s"]
        text = f"{rate['median']:,.0f} tokens/s ({rate['min']:,.0f}–{rate['max']:,.0f}), " \
               f"{result['peak_bytes'] / 2**30:.1f} GiB, loss {result['loss']:.3f}"
        if "tflops" in result and peak:
            text += f", {result['tflops'] / peak:.1%} of the measured peak"
        return text
    if "bf16_tflops" in result:
        eight = f"{result['fp8_tflops']['median']:.0f} fp8, " if "fp8_tflops" in result else ""
        return f"{result['bf16_tflops']['median']:.0f} TFLOP/s bf16, {eight}" \
               f"{result['copy_tb_per_s']['median']:.2f} TB/s copied, {result['gpu']}"
    if "products" in result:  # TFLOP/s of forward, input's and weight's gradient
        return "; ".join(f"{name} " + ", ".join(
            " → ".join(f"{of[kind]['median']:.0f}" for kind in ("bf16", "fp8", "fp8_rounded") if kind in of)
            for of in (line["forward"], line["input_gradient"], line["weight_gradient"]))
            for name, line in result["products"].items()) + " (TFLOP/s: bf16 → fp8 → with its rounding)"
    return ", ".join(f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in result.items())


def main():
    out = pathlib.Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = {}
    for name, part in PARTS:
        begin = time.monotonic()
        try:
            report[name] = {"ok": True, **part(out)}
        except Failed as error:
            report[name] = {"ok": False, "error": str(error)}
        except Exception as error:  # pylint: disable=broad-except  # whatever it is, the other parts go on
            report[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        report[name]["seconds"] = round(time.monotonic() - begin, 1)
        (out / "gpu_check.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
        print(f"… {name}: {'done' if report[name]['ok'] else 'FAILED'} in {report[name]['seconds']} s", file=sys.stderr)
    peak = report["roofline"].get("bf16_tflops", {}).get("median")
    print("\n| part | | s |\n|---|---|---|")
    for name, result in report.items():
        result = dict(result)
        seconds = result.pop("seconds")
        text = told(result, peak) if result.pop("ok") else "FAILED: " + result["error"].replace("|", "/")
        print(f"| {name} | {text} | {seconds} |")
    return 0 if all(result["ok"] for result in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
