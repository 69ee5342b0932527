#include "train_sft/report/terminal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/summary.h"
#include "train_sft/base/progress.h"
#include "train_sft/base/utf8.h"

namespace train_sft {
namespace {

constexpr size_t kLabelColumns = 9;

std::string clipped(const std::string& text, size_t columns) {
  if (count_characters(text) <= columns) return text;
  return text.substr(0, character_offset(text, columns - 1)) + "…";
}

// Words wrapped to lines; at most `most` of them.
std::vector<std::string> wrapped(const std::string& text, size_t columns, size_t most) {
  std::vector<std::string> lines(1);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    std::string& line = lines.back();
    if (!line.empty() && count_characters(line) + 1 + count_characters(word) > columns)
      lines.push_back(word);
    else
      line += (line.empty() ? "" : " ") + word;
    begin = end + 1;
  }
  if (lines.size() > most) {
    lines.resize(most);
    lines.back() += " …";
  }
  for (std::string& line : lines) line = clipped(line, columns);
  return lines;
}

std::string progress_line(const Outline& o, size_t columns) {
  if (o.max_iters <= 0) return "";
  const double part = std::min(1.0, static_cast<double>(o.step) / static_cast<double>(o.max_iters));
  const std::string text =
      fmt::format(" {:.0f} %{}", 100 * part,
                  o.state == RunState::running && o.seconds_left > 0
                      ? fmt::format(" · {} left", human_duration(o.seconds_left))
                      : "");
  const size_t width =
      columns > count_characters(text) + 10 ? columns - count_characters(text) : 10;
  std::string bar;
  for (size_t i = 0; i < width; ++i)
    bar += static_cast<double>(i) < part * static_cast<double>(width) ? "━" : "─";
  return bar + text;
}

std::string figures_line(const RunFiles& run, const Outline& o) {
  if (run.records.empty()) return "no step is logged yet";
  const Record& last = run.records.back();
  std::string text = fmt::format("loss {:.4f}", last.loss);
  if (o.last_val_loss)
    text += fmt::format(" · validation {:.4f} (best {:.4f} at step {})", *o.last_val_loss,
                        *o.best_val_loss, o.best_step);
  return text + fmt::format(" · lr {:.2e} · norm {:.2f}", last.lr, last.grad_norm);
}

std::string machine_line(const RunFiles& run, const Outline& o) {
  if (run.records.empty()) return "";
  const Record& last = run.records.back();
  std::string text =
      fmt::format("{} tokens/s · {:.1f} ms a step · memory {}", human_count(o.tokens_per_s),
                  last.step_ms, human_bytes(static_cast<double>(last.memory_bytes)));
  if (last.memory_limit_bytes > 0)
    text += " of " + human_bytes(static_cast<double>(last.memory_limit_bytes));
  return text;
}

struct Curve {
  std::string title;
  std::vector<double> x, y;
};

Curve training_curve(const RunFiles& run) {
  Curve curve{"training loss", {}, {}};
  for (const Record& record : run.records) {
    curve.x.push_back(static_cast<double>(record.step));
    curve.y.push_back(record.loss);
  }
  return curve;
}

Curve validation_curve(const RunFiles& run) {
  Curve curve{"validation loss", {}, {}};
  for (const Record& record : run.records) {
    if (!record.val_loss) continue;
    curve.x.push_back(static_cast<double>(record.step));
    curve.y.push_back(*record.val_loss);
  }
  return curve;
}

void add_curve(std::vector<std::string>& lines, const Curve& curve, size_t columns, size_t rows) {
  std::vector<double> finite;
  for (const double y : curve.y)
    if (std::isfinite(y)) finite.push_back(y);
  if (finite.size() < 2 || rows < 3 || columns < kLabelColumns + 10) return;
  const auto [low, high] = std::minmax_element(finite.begin(), finite.end());
  const auto picture = braille_curve(curve.x, curve.y, columns - kLabelColumns, rows - 1);
  lines.push_back(curve.title);
  for (size_t i = 0; i < picture.size(); ++i) {
    const std::string label = i == 0                    ? fmt::format("{:.4g}", *high)
                              : i + 1 == picture.size() ? fmt::format("{:.4g}", *low)
                                                        : "";
    lines.push_back(fmt::format("{:>{}} {}{}", label, kLabelColumns - 2, "│", picture[i]));
  }
}

std::vector<std::string> sign_lines(const RunFiles& run, size_t columns, size_t most) {
  std::vector<std::string> lines;
  for (auto sign = run.signs.rbegin(); sign != run.signs.rend() && lines.size() < most; ++sign) {
    const bool warning = sign->level == Sign::Level::warning;
    lines.push_back(clipped(fmt::format("{} {} (step {}): {}", warning ? "!" : "·", sign->rule,
                                        sign->step, printable(sign->evidence)),
                            columns));
  }
  return lines;
}

std::vector<std::string> sample_lines(const RunFiles& run, size_t columns, size_t most) {
  std::vector<std::string> lines;
  if (run.samples.empty() || most < 3) return lines;
  const Json& step = run.samples.back()["step"];
  lines.push_back(fmt::format("samples at step {}", step.get<int64_t>()));
  for (const Json& sample : run.samples) {
    if (sample["step"] != step || lines.size() + 2 > most) continue;
    const std::string prompt = printable(sample["prompt"].get<std::string>());
    const std::string reply = printable(sample["sample"].get<std::string>());
    lines.push_back("> " + clipped(prompt, columns - 2));
    for (const std::string& line :
         wrapped(reply, columns - 4, std::min<size_t>(3, most - lines.size())))
      lines.push_back("    " + line);
  }
  return lines;
}

Json number(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json();
}

}  // namespace

std::string printable(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = valid_character_bytes(std::string_view(text).substr(i));
    const auto lead = static_cast<unsigned char>(text[i]);
    const bool c1 = length == 2 && lead == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (text[i] == '\n' || text[i] == '\t')
      out += ' ';
    else if (length == 0 || lead < 0x20 || lead == 0x7f || c1)
      out += "\xEF\xBF\xBD";
    else
      out += text.substr(i, length);
    i += std::max<size_t>(1, length);
  }
  return out;
}

std::vector<std::string> braille_curve(const std::vector<double>& x, const std::vector<double>& y,
                                       size_t columns, size_t rows) {
  std::vector<uint8_t> cells(columns * rows, 0);
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (size_t i = 0; i < y.size(); ++i) {
    if (!std::isfinite(y[i]) || !std::isfinite(x[i])) continue;
    x0 = std::min(x0, x[i]), x1 = std::max(x1, x[i]);
    y0 = std::min(y0, y[i]), y1 = std::max(y1, y[i]);
  }
  const auto place = [](double value, double low, double high, size_t dots) {
    const double part = high > low ? (value - low) / (high - low) : 0.5;
    return static_cast<size_t>(std::lround(part * static_cast<double>(dots - 1)));
  };
  // Dots of a character, by column and row: Unicode 15, block 2800.
  constexpr uint8_t kDots[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};
  const auto dot = [&](size_t column, size_t row) {
    cells[row / 4 * columns + column / 2] |= kDots[column % 2][row % 4];
  };
  bool pen = false;
  size_t last_column = 0, last_row = 0;
  for (size_t i = 0; i < y.size() && columns > 0 && rows > 0; ++i) {
    if (!std::isfinite(y[i]) || !std::isfinite(x[i])) {
      pen = false;
      continue;
    }
    const size_t column = place(x[i], x0, x1, 2 * columns);
    const size_t row = 4 * rows - 1 - place(y[i], y0, y1, 4 * rows);
    const size_t from = pen ? last_column : column;
    size_t above = pen ? last_row : row;
    for (size_t c = from; c <= column; ++c) {  // a straight line from the point before
      const double part =
          column > from ? static_cast<double>(c - from) / static_cast<double>(column - from) : 1;
      const double start = static_cast<double>(pen ? last_row : row);
      const auto at =
          static_cast<size_t>(std::lround(start * (1 - part) + static_cast<double>(row) * part));
      dot(c, at);
      for (; above + 1 < at; ++above) dot(c, above + 1);  // steep: no gaps
      for (; at + 1 < above; --above) dot(c, above - 1);
      above = at;
    }
    pen = true;
    last_column = column;
    last_row = row;
  }
  std::vector<std::string> lines(rows);
  for (size_t row = 0; row < rows; ++row)
    for (size_t column = 0; column < columns; ++column) {
      const unsigned code = 0x2800u + cells[row * columns + column];
      lines[row] += static_cast<char>(0xE0 | (code >> 12));
      lines[row] += static_cast<char>(0x80 | (code >> 6 & 0x3F));
      lines[row] += static_cast<char>(0x80 | (code & 0x3F));
    }
  return lines;
}

std::vector<std::string> terminal_view(const RunFiles& run, TerminalSize size) {
  const Outline o = outline(run);
  const size_t columns = std::max<size_t>(20, size.columns);
  std::vector<std::string> lines;
  lines.push_back(fmt::format("{} · {} · step {}{} · epoch {:.3f}", printable(run.name),
                              o.state_text, o.step,
                              o.max_iters > 0 ? fmt::format("/{}", o.max_iters) : "", o.epoch));
  lines.push_back(progress_line(o, columns));
  lines.push_back(figures_line(run, o));
  lines.push_back(machine_line(run, o));
  if (!run.last_warning.empty() && o.state == RunState::running)
    lines.push_back("! " + printable(run.last_warning));
  std::erase(lines, "");
  // What is left is shared: signs a line each, samples at the bottom, the curves between.
  const size_t left = size.rows > lines.size() + 1 ? size.rows - lines.size() - 1 : 4;
  const auto signs = sign_lines(run, columns, std::max<size_t>(1, left / 5));
  const auto samples = sample_lines(run, columns, left / 3);
  const size_t for_curves =
      left > signs.size() + samples.size() ? left - signs.size() - samples.size() : 0;
  const Curve validation = validation_curve(run);
  const bool both = validation.y.size() > 1 && for_curves >= 8;
  add_curve(lines, training_curve(run), columns,
            std::min<size_t>(12, both ? for_curves - for_curves / 2 : for_curves));
  if (both) add_curve(lines, validation, columns, std::min<size_t>(12, for_curves / 2));
  lines.insert(lines.end(), signs.begin(), signs.end());
  lines.insert(lines.end(), samples.begin(), samples.end());
  for (std::string& line : lines) line = clipped(line, columns);
  return lines;
}

Json watch_json(const RunFiles& run) {
  const Outline o = outline(run);
  const Record last = run.records.empty() ? Record{} : run.records.back();
  Json signs = Json::array(), samples = Json::array();
  for (const Sign& sign : run.signs) signs.push_back(to_json(sign));
  for (const Json& sample : run.samples)
    if (sample["step"] == run.samples.back()["step"]) samples.push_back(sample);
  return {
      {"name", run.name},
      {"state", o.state_text},
      {"running", o.state == RunState::running},
      {"step", o.step},
      {"max_iters", o.max_iters > 0 ? Json(o.max_iters) : Json()},
      {"epoch", o.epoch},
      {"loss", number(o.loss)},
      {"val_loss", number(o.last_val_loss)},
      {"best_val_loss", number(o.best_val_loss)},
      {"best_step", o.best_step >= 0 ? Json(o.best_step) : Json()},
      {"lr", number(last.lr)},
      {"grad_norm", number(last.grad_norm)},
      {"tokens_per_s", number(o.tokens_per_s)},
      {"step_ms", number(last.step_ms)},
      {"memory_bytes", last.memory_bytes},
      {"memory_limit_bytes", last.memory_limit_bytes > 0 ? Json(last.memory_limit_bytes) : Json()},
      {"seconds", o.seconds},
      {"seconds_left", o.state == RunState::running ? number(o.seconds_left) : Json()},
      {"last_warning", run.last_warning.empty() ? Json() : Json(run.last_warning)},
      {"signs", signs},
      {"samples", samples}};
}

}  // namespace train_sft
