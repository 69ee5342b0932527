// Draws the curves of the report from the numbers in #numbers. No text of the run becomes markup:
// everything is set as text or as an attribute's number.
(() => {
  "use strict";
  const runs = JSON.parse(document.getElementById("numbers").textContent).runs;
  const SVG = "http://www.w3.org/2000/svg";
  const state = { x: "step", smooth: 0.6, range: null };
  const charts = [];
  const several = runs.length > 1;

  function svg(name, attributes, parent, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }
  function html(name, className, parent, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  }
  const colour = (i) => i % 6;

  function number(value) {
    if (value === null || !isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e9)) return value.toExponential(2);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return String(+value.toPrecision(4));
  }
  function short(value) {
    const size = Math.abs(value);
    for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
      if (size >= unit) return +(value / unit).toPrecision(3) + name;
    if (size !== 0 && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
    return String(+value.toPrecision(3));
  }

  // Exponential mean with the start corrected, as in Adam; gaps stay gaps.
  function smoothed(values, weight) {
    let mean = 0, steps = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      return mean / (1 - Math.pow(weight, ++steps));
    });
  }

  function ticks(low, high, count, log) {
    if (log) {
      const out = [], decades = Math.log10(high / low);
      const steps = decades > 3 ? [1] : decades > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); ++e)
        for (const s of steps) { const v = s * Math.pow(10, e); if (v >= low && v <= high) out.push(v); }
      return out.length >= 2 ? out : [low, high];
    }
    const raw = (high - low) / count, size = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * size).find((s) => s >= raw) || 10 * size;
    const out = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(+v.toPrecision(12));
    return out;
  }

  // A series: points {step, tokens, epoch: […], y: […]}, drawn as a curve, evaluations with dots.
  function seriesOf(key) {
    const out = [];
    runs.forEach((run, i) => {
      const name = several ? run.name : "";
      const label = (what) => (several ? (what ? name + ", " + what : name) : what);
      if (key === "loss") {
        out.push({ at: run.train, y: run.train.loss, c: colour(i), label: label(several ? "" : "training"), smooth: true });
        out.push({ at: run.evaluations, y: run.evaluations.loss, c: several ? colour(i) : 1, label: label("validation"), dots: true, dash: several });
        Object.keys(run.named).forEach((set, n) =>
          out.push({ at: run.named[set], y: run.named[set].loss, c: several ? colour(i) : 2 + n, label: label(set), dots: true, dash: true }));
      } else if (key === "perplexity") {
        out.push({ at: run.evaluations, y: run.evaluations.loss.map((v) => (v === null ? null : Math.exp(v))), c: several ? colour(i) : 1, label: label("validation"), dots: true });
      } else {
        out.push({ at: run.train, y: run.train[key], c: several ? colour(i) : 0, label: label(""), smooth: key !== "lr" });
      }
    });
    return out.filter((s) => s.y.some((v) => v !== null));
  }

  function Chart(figure) {
    const key = figure.dataset.series, wide = figure.classList.contains("wide");
    const series = seriesOf(key);
    if (!series.length) { figure.remove(); return; }
    const title = figure.querySelector("figcaption");
    for (const s of series) if (s.label) { const l = html("span", "k" + s.c, title, (s.dash ? "┅ " : "━ ")); html("span", "", l, s.label); }
    const logLabel = html("label", "", title), log = html("input", "", logLabel);
    log.type = "checkbox";
    log.checked = key === "loss" && figure.dataset.log === "1";
    logLabel.append(" log scale");
    const root = svg("svg", { role: "img", "aria-label": title.firstChild.textContent }, figure);
    const tip = html("div", "tip", figure);
    tip.hidden = true;
    const box = { left: 52, right: 10, top: 10, bottom: 24 };
    let view = null;

    function draw() {
      const width = Math.max(260, figure.clientWidth), height = wide ? Math.min(380, 200 + width * 0.15) : 210;
      root.setAttribute("viewBox", `0 0 ${width} ${height}`);
      root.replaceChildren();
      tip.hidden = true;
      const inner = { w: width - box.left - box.right, h: height - box.top - box.bottom };
      const all = series.flatMap((s) => s.at[state.x]);
      let [x0, x1] = state.range || [Math.min(...all), Math.max(...all)];
      if (!(x1 > x0)) { x0 -= 0.5; x1 += 0.5; }
      const useLog = log.checked;
      let y0 = Infinity, y1 = -Infinity;
      for (const s of series) {
        s.line = s.smooth && state.smooth > 0 ? smoothed(s.y, state.smooth) : s.y;
        s.y.forEach((v, i) => {
          const x = s.at[state.x][i];
          if (v === null || x < x0 || x > x1 || (useLog && v <= 0)) return;
          y0 = Math.min(y0, v); y1 = Math.max(y1, v);
        });
      }
      if (!(y1 >= y0)) { y0 = 0; y1 = 1; }
      if (!useLog) {
        const pad = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 1;
        y0 = y0 >= 0 ? Math.max(0, y0 - pad) : y0 - pad;
        y1 += pad;
      } else if (y1 / y0 < 1.05) { y0 /= 1.05; y1 *= 1.05; }
      const f = useLog ? Math.log : (v) => v;
      const X = (v) => box.left + ((v - x0) / (x1 - x0)) * inner.w;
      const Y = (v) => box.top + inner.h - ((f(v) - f(y0)) / (f(y1) - f(y0))) * inner.h;
      for (const v of ticks(y0, y1, 5, useLog)) {
        svg("line", { class: "grid", x1: box.left, x2: width - box.right, y1: Y(v), y2: Y(v) }, root);
        svg("text", { x: box.left - 6, y: Y(v) + 4, "text-anchor": "end" }, root, short(v));
      }
      for (const v of ticks(x0, x1, Math.max(2, Math.floor(inner.w / 90)), false)) {
        if (X(v) > width - box.right + 1) continue;
        svg("line", { class: "axis", x1: X(v), x2: X(v), y1: box.top + inner.h, y2: box.top + inner.h + 4 }, root);
        svg("text", { x: Math.min(X(v), width - 18), y: height - 6, "text-anchor": "middle" }, root, short(v));
      }
      svg("line", { class: "axis", x1: box.left, x2: width - box.right, y1: box.top + inner.h, y2: box.top + inner.h }, root);
      const clip = "clip-" + key;
      svg("rect", { x: box.left, y: box.top - 4, width: inner.w, height: inner.h + 8 }, svg("clipPath", { id: clip }, root));
      const layer = svg("g", { "clip-path": `url(#${clip})` }, root);
      const path = (s, values) => {
        let d = "", pen = false;
        values.forEach((v, i) => {
          if (v === null || (useLog && v <= 0)) { pen = false; return; }
          d += `${pen ? "L" : "M"}${X(s.at[state.x][i]).toFixed(1)} ${Y(v).toFixed(1)}`;
          pen = true;
        });
        return d;
      };
      for (const s of series) {
        if (s.line !== s.y) svg("path", { class: `curve raw c${s.c}`, d: path(s, s.y) }, layer);
        svg("path", { class: `curve c${s.c}${s.dash ? " dash" : ""}`, d: path(s, s.line) }, layer);
        if (s.dots && s.y.length < 200)
          s.y.forEach((v, i) => { if (v !== null) svg("circle", { class: `dot k${s.c}`, cx: X(s.at[state.x][i]), cy: Y(v), r: 2.6 }, layer); });
      }
      for (const run of runs) for (const sign of run.signs) {
        if (!sign.charts.includes(key)) continue;
        const x = X(sign[state.x]);
        svg("line", { class: "sign", x1: x, x2: x, y1: box.top, y2: box.top + inner.h }, layer);
        svg("path", { class: "sign-head", d: `M${x - 5} ${box.top - 4}h10l-5 8z` }, layer);
      }
      view = { x0, x1, X, Y, width, height, inner, invert: (px) => x0 + ((px - box.left) / inner.w) * (x1 - x0) };
    }

    function nearest(values, x) {
      let best = -1, gap = Infinity;
      values.forEach((v, i) => { const g = Math.abs(v - x); if (g < gap) { gap = g; best = i; } });
      return best;
    }
    const local = (event) => {
      const r = root.getBoundingClientRect();
      return Math.min(view.width - box.right, Math.max(box.left, ((event.clientX - r.left) / r.width) * view.width));
    };
    let cross = null, from = null, area = null;
    function hover(event) {
      const px = local(event), x = view.invert(px);
      if (!cross) cross = svg("line", { class: "cross", y1: box.top, y2: box.top + view.inner.h }, root);
      tip.replaceChildren();
      let snapped = null;
      for (const s of series) {
        const i = nearest(s.at[state.x], x);
        if (i < 0 || s.y[i] === null) continue;
        if (snapped === null) {
          snapped = s.at[state.x][i];
          html("div", "soft", tip, `step ${number(s.at.step[i])} · epoch ${number(s.at.epoch[i])}`);
        } else if (Math.abs(s.at[state.x][i] - snapped) > (view.x1 - view.x0) / 25) continue;
        const line = html("div", "k" + s.c, tip);
        html("b", "", line, number(s.y[i]));
        line.append(s.label ? " " + s.label : "");
      }
      for (const run of runs) for (const sign of run.signs)
        if (sign.charts.includes(key) && Math.abs(view.X(sign[state.x]) - px) < 8) html("div", "why", tip, sign.rule.replaceAll("_", " ") + ": " + sign.evidence);
      if (snapped === null) return;
      cross.setAttribute("x1", view.X(snapped));
      cross.setAttribute("x2", view.X(snapped));
      tip.hidden = false;
      const at = (view.X(snapped) / view.width) * figure.clientWidth;
      tip.style.left = Math.max(0, Math.min(figure.clientWidth - tip.offsetWidth, at > figure.clientWidth / 2 ? at - tip.offsetWidth - 12 : at + 12)) + "px";
      tip.style.top = root.offsetTop + 18 + "px";
      if (from !== null) {
        if (!area) area = svg("rect", { class: "zoom", y: box.top, height: view.inner.h }, root);
        area.setAttribute("x", Math.min(from, px));
        area.setAttribute("width", Math.abs(px - from));
      }
    }
    function leave() {
      if (cross) cross.remove();
      if (area) area.remove();
      cross = area = from = null;
      tip.hidden = true;
    }
    root.addEventListener("pointermove", hover);
    root.addEventListener("pointerdown", (event) => { from = local(event); root.setPointerCapture(event.pointerId); hover(event); });
    root.addEventListener("pointerup", (event) => {
      const begin = from, end = local(event);
      leave();
      if (begin === null || Math.abs(end - begin) < 12) { if (event.pointerType !== "mouse") hover(event); return; }
      state.range = [view.invert(Math.min(begin, end)), view.invert(Math.max(begin, end))];
      redraw();
    });
    root.addEventListener("pointercancel", leave);
    root.addEventListener("pointerleave", leave);
    root.addEventListener("dblclick", () => { state.range = null; redraw(); });
    log.addEventListener("change", draw);
    charts.push({ draw, figure });
  }

  function redraw() {
    reset.hidden = state.range === null;
    for (const chart of charts) chart.draw();
  }
  const controls = document.getElementById("controls");
  const axisLabel = html("label", "", controls, "horizontal "), axis = html("select", "", axisLabel);
  for (const key of ["step", "epoch", "tokens"]) html("option", "", axis, key).value = key;
  const smoothLabel = html("label", "", controls, "smoothing "), smooth = html("input", "", smoothLabel);
  Object.assign(smooth, { type: "range", min: 0, max: 0.98, step: 0.02, value: state.smooth });
  const reset = html("button", "", controls, "whole run");
  html("span", "soft", controls, "drag across a chart to zoom, double-click for the whole run");
  axis.addEventListener("change", () => { state.x = axis.value; state.range = null; redraw(); });
  smooth.addEventListener("input", () => { state.smooth = +smooth.value; redraw(); });
  reset.addEventListener("click", () => { state.range = null; redraw(); });
  for (const figure of document.querySelectorAll("figure[data-series]")) Chart(figure);
  redraw();
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; redraw(); } });
  window.addEventListener("beforeprint", () => { for (const node of document.querySelectorAll("details")) node.open = true; redraw(); });
})();
