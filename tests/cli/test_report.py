"""`report` and `watch` on a run that was really trained; the page in a real browser where there is one."""

import json
import re
import shutil
import subprocess

import pytest

from conftest import as_json, metrics, train_sft, write_jsonl

TINY = ["--n_layer", 1, "--n_head", 2, "--n_embd", 16, "--block_size", 64, "--batch_size", 4, "--threads", 1,
        "--tokenizer_type", "char", "--log_interval", 2, "--eval_interval", 10, "--sample_interval", 10]
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\x1b[31m"
BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome: the page is not opened in a browser")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two runs on conversations that hold markup, which differ in their learning rate."""
    folder = tmp_path_factory.mktemp("report")
    write_jsonl(folder / "chat.jsonl", [{"prompt": f"say {i} {HOSTILE}", "completion": f"{i} {HOSTILE}"} for i in range(80)])
    for name, rate in [("low", 1e-3), ("high", 1e-2)]:
        train_sft("--data", "chat.jsonl", "--max_iters", 40, "--learning_rate", rate, "--out_dir", name,
                  "--sample_prompts", HOSTILE, *TINY, "--block_size", 400, cwd=folder)
    return folder


def opened(page, width=1280):
    """What the browser made of the page, and what its console said."""
    result = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},2000",
         "--virtual-time-budget=4000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_a_run_leaves_its_page_and_its_card(two_runs):
    page = (two_runs / "low" / "report.html").read_text(encoding="utf-8")
    assert "Done after 40 steps" in page and "default-src 'none'" in page
    assert "<img" not in page and page.count("<script") == 2
    card = json.loads((two_runs / "low" / "run.json").read_text(encoding="utf-8"))
    assert card["ended"]["summary"]["stopped_by"] == "max_iters"
    assert len(card["data"]["examples"]) == 3
    learned = [s["text"] for s in card["data"]["examples"][0]["segments"] if s["learned"]]
    assert len(learned) == 1 and HOSTILE[:50] in learned[0] and "say" not in learned[0]


def test_signs_recorded_by_the_trainer_are_those_report_finds(two_runs):
    for name in ["low", "high"]:
        recorded = [sign for line in metrics(two_runs / name).values() for sign in line.get("signs", [])]
        said = as_json("report", name, "--out", "again.html", cwd=two_runs)
        assert said["runs"][0]["signs"] == recorded


def test_watch_prints_one_view_when_piped_and_json_on_request(two_runs):
    said = train_sft("watch", "low", cwd=two_runs)
    assert "step 40/40" in said and "training loss" in said and "samples at step 40" in said
    assert "\x1b" not in said
    state = as_json("watch", "low", cwd=two_runs)
    last = metrics(two_runs / "low")[40]
    assert state["step"] == 40 and state["state"] == "done" and not state["running"]
    assert state["loss"] == last["loss"] and state["val_loss"] == last["val_loss"]


def test_a_model_card_is_markdown(two_runs):
    card = train_sft("report", "low", "--markdown", cwd=two_runs)
    assert card.startswith("---\n") and "| learning_rate | 0.001 |" in card
    outside = re.sub(r"(`{3,})text\n.*?\n\1\n", "", card, flags=re.S)  # inside, it is code
    assert outside != card and not re.search(r"(?<!\\)<", outside)


def test_what_is_no_run_is_said(two_runs):
    assert "no run is there" in train_sft("report", "nowhere", cwd=two_runs, code=3)
    assert "out_dir" in train_sft("report", cwd=two_runs, code=2)
    assert "one run" in train_sft("report", "low", "high", "--markdown", cwd=two_runs, code=2)


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(two_runs, width):
    dom, console = opened(two_runs / "low" / "report.html", width)
    assert not console, console
    assert "<title>low" in dom
    for series in ["loss", "perplexity", "lr", "grad_norm", "tokens_per_s"]:
        figure = re.search(rf'data-series="{series}".*?</figure>', dom, re.S).group(0)
        assert re.search(r'<path class="curve c\d[^"]*" d="M[\d.]+ [\d.]+L', figure), series
        assert "NaN" not in figure, series


@needs_browser
def test_several_runs_in_a_browser(two_runs):
    train_sft("report", "low", "high", "--out", "both.html", cwd=two_runs)
    dom, console = opened(two_runs / "both.html")
    assert not console, console
    loss = re.search(r'data-series="loss".*?</figure>', dom, re.S).group(0)
    assert "curve c0" in loss and "curve c1" in loss
    assert re.search(r"<td>learning_rate</td><td[^>]*>0.001</td><td[^>]*>0.01</td>", dom)


# What a person does with the curves; the outcome becomes the title.
ACTIONS = """
const done = [];
const root = () => document.querySelector('figure[data-series=loss] svg');
const path = () => root().querySelector('path.curve').getAttribute('d');
const at = (type, part) => { const r = root().getBoundingClientRect();
  root().dispatchEvent(new PointerEvent(type, {clientX: r.left + r.width * part, clientY: r.top + 50, pointerType: 'mouse', pointerId: 1, bubbles: true})); };
SVGElement.prototype.setPointerCapture = () => {};
const tip = document.querySelector('figure[data-series=loss] .tip');
at('pointermove', 0.5);
if (!tip.hidden && /step \\d+ · epoch/.test(tip.textContent) && /training/.test(tip.textContent)) done.push('hover');
const whole = path();
at('pointerdown', 0.4); at('pointermove', 0.8); at('pointerup', 0.8);
if (path() !== whole && tip.hidden) done.push('zoom');
[...document.querySelectorAll('#controls button')].find((b) => b.textContent === 'whole run').click();
if (path() === whole) done.push('unzoom');
const log = document.querySelector('figure[data-series=loss] input'); log.click();
if (path() !== whole) done.push('log');
log.click();
const smooth = document.querySelector('#controls input[type=range]'); smooth.value = 0; smooth.dispatchEvent(new Event('input'));
if (document.querySelector('figure[data-series=loss] path.raw') === null) done.push('smoothing');
const axis = document.querySelector('#controls select'); axis.value = 'tokens'; axis.dispatchEvent(new Event('change'));
if ([...root().querySelectorAll('text')].some((t) => /k$/.test(t.textContent))) done.push('tokens');
window.dispatchEvent(new Event('beforeprint'));
if ([...document.querySelectorAll('details')].every((d) => d.open)) done.push('print');
document.title = done.join(' ');
"""


@needs_browser
def test_zoom_hover_log_scale_and_smoothing_in_a_browser(two_runs):
    page = (two_runs / "low" / "report.html").read_text(encoding="utf-8")
    nonce = re.search(r'<script nonce="([^"]+)"', page).group(1)
    acted = two_runs / "acted.html"
    acted.write_text(page.replace("</body>", f'<script nonce="{nonce}">{ACTIONS}</script></body>'), encoding="utf-8")
    dom, console = opened(acted)
    assert not console, console
    assert "<title>hover zoom unzoom log smoothing tokens print</title>" in dom, re.search("<title>.*?</title>", dom).group(0)


@needs_browser
def test_a_script_without_the_pages_nonce_is_refused(two_runs):
    page = (two_runs / "low" / "report.html").read_text(encoding="utf-8")
    hostile = two_runs / "hostile.html"
    hostile.write_text(page.replace("</body>", "<script>document.title='owned'</script></body>"), encoding="utf-8")
    dom, console = opened(hostile)
    assert "<title>low" in dom and any("Content Security Policy" in line for line in console)
