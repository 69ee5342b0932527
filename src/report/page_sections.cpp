#include "report/page_sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "report/html.h"
#include "report/summary.h"
#include "train_sft/base/progress.h"
#include "train_sft/config/options.h"

namespace train_sft::page {
namespace {

using html::escape;

std::string tile(const std::string& name, const std::string& value) {
  return fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
}

std::string count_text(const Json& value) {
  if (value.is_number_integer()) return grouped(value.get<int64_t>());
  return value.is_null() ? "–" : value_text(value);
}

double number_of(const Json& value) {
  return value.is_number() ? value.get<double>() : 0;
}

std::string row(std::initializer_list<std::string> cells, const char* css = "") {
  std::string text = fmt::format("<tr{}>", css);
  for (const std::string& cell : cells) text += cell;
  return text + "</tr>\n";
}

std::string cell(const std::string& text, const char* css = "") {
  return *css == 0 ? fmt::format("<td>{}</td>", escape(text))
                   : fmt::format("<td class=\"{}\">{}</td>", css, escape(text));
}

// -- data

std::string data_tiles(const Json& report) {
  const double tokens = number_of(value_at(report, {"tokens"}));
  std::string tiles = "<dl class=\"tiles\">";
  tiles += tile("examples", count_text(value_at(report, {"examples"})));
  tiles += tile("tokens", count_text(value_at(report, {"tokens"})));
  tiles += tile("learned", percent(number_of(value_at(report, {"learned_tokens"})), tokens));
  tiles += tile("rows", count_text(value_at(report, {"rows"})));
  tiles += tile("rows filled", percent(number_of(value_at(report, {"fill"})), 1));
  tiles += tile("truncated", count_text(value_at(report, {"truncated"})));
  tiles += tile("duplicates", count_text(value_at(report, {"duplicates"})));
  return tiles + "</dl>\n";
}

// A box from the first to the third quartile with its median, whiskers from 5 to 95 %.
std::string length_figure(const Json& lengths) {
  if (!lengths.is_array() || lengths.size() != 7) return "";
  std::vector<double> p;
  for (const Json& length : lengths) p.push_back(number_of(length));
  const double span = std::max(1.0, p[5] * 1.08);
  const auto x = [&](double value) { return 10 + 580 * std::min(1.0, value / span); };
  return fmt::format(
      "<figure><figcaption>Lengths in tokens</figcaption>"
      "<svg viewBox=\"0 0 600 62\" role=\"img\" aria-label=\"distribution of lengths\">"
      "<line class=\"axis\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"22\" y2=\"22\"/>"
      "<rect class=\"bar\" opacity=\"0.35\" x=\"{:.1f}\" y=\"10\" width=\"{:.1f}\" height=\"24\"/>"
      "<line class=\"curve c0\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"8\" y2=\"36\"/>"
      "<text x=\"{:.1f}\" y=\"54\" text-anchor=\"middle\">{}</text></svg>"
      "<p class=\"soft\">median {}, half between {} and {}, 90 % between {} and {}, all between {} "
      "and {}</p></figure>\n",
      x(p[1]), x(p[5]), x(p[2]), std::max(1.0, x(p[4]) - x(p[2])), x(p[3]), x(p[3]),
      std::clamp(x(p[3]), 20.0, 580.0), count_text(lengths[3]), count_text(lengths[3]),
      count_text(lengths[2]), count_text(lengths[4]), count_text(lengths[1]),
      count_text(lengths[5]), count_text(lengths[0]), count_text(lengths[6]));
}

std::string dropped(const Json& report) {
  const Json& reasons = value_at(report, {"dropped"});
  if (!reasons.is_object() || reasons.empty()) return "";
  std::string text = "<p>Dropped: ";
  for (const auto& [reason, count] : reasons.items())
    text += fmt::format("{} {}; ", count_text(count), escape(reason));
  return text + "</p>\n";
}

std::string rendered_example(const Json& example, size_t index) {
  const Json& segments = value_at(example, {"segments"});
  if (!segments.is_array()) return "";
  std::string text = fmt::format("<h3>Example {}: {} tokens, {} learned</h3>\n<div class=\"text\">",
                                 index + 1, count_text(value_at(example, {"tokens"})),
                                 count_text(value_at(example, {"learned"})));
  for (const Json& segment : segments) {
    const Json& piece = value_at(segment, {"text"});
    if (!piece.is_string()) continue;
    const bool learned = value_at(segment, {"learned"}) == true;
    const std::string shown = escape(piece.get<std::string>());
    text += learned ? "<mark>" + shown + "</mark>" : shown;
  }
  if (number_of(value_at(example, {"shown"})) < number_of(value_at(example, {"tokens"})))
    text += " …";
  return text + "</div>\n";
}

// -- settings

bool is_given(const Json& settings, const std::string& name) {
  return !value_at(settings, {"_source", name.c_str()}).is_null();
}

std::string setting_row(const Json& settings, const std::string& name, const Json& value) {
  const Json& source = value_at(settings, {"_source", name.c_str()});
  return row({cell(name), cell(value_text(value), "long"),
              cell(source.is_string() ? source.get<std::string>() : "built-in")});
}

}  // namespace

std::string signs(const RunFiles& run) {
  if (run.signs.empty()) return "<p class=\"soft\">None so far.</p>\n";
  std::string text = "<ul class=\"signs\">\n";
  for (const Sign& sign : run.signs) {
    const bool note = sign.level == Sign::Level::note;
    std::string name = sign.rule;
    std::replace(name.begin(), name.end(), '_', ' ');
    text += fmt::format("<li{}><b>{}</b> <span class=\"soft\">step {}</span><br>{}",
                        note ? " class=\"note\"" : "", escape(name), grouped(sign.step),
                        escape(sign.evidence));
    if (!note) text += fmt::format("<br><span class=\"soft\">{}</span>", escape(sign.advice));
    text += "</li>\n";
  }
  return text + "</ul>\n";
}

std::string data(const RunFiles& run) {
  const Json& report = value_at(run.card, {"data", "train"});
  if (!report.is_object()) return "";
  std::string text = data_tiles(report);
  text += length_figure(value_at(report, {"length_percentiles"})) + dropped(report);
  text += "<div class=\"scroll\"><table><tr><th>source</th><th>used for</th></tr>\n";
  for (const auto& [key, use] : {std::pair{"files", "training"}, {"val_files", "validation"}}) {
    const Json& files = value_at(run.card, {"data", key});
    if (!files.is_array()) continue;
    for (const Json& file : files) text += row({cell(value_text(file), "long"), cell(use)});
  }
  text += "</table></div>\n";
  const Json& validation = value_at(run.card, {"data", "validation"});
  if (validation.is_object())
    text += fmt::format(
        "<p>Validation: {} examples, {} tokens, {} of them learned; {} also occur in "
        "the training data.</p>\n",
        count_text(value_at(validation, {"examples"})),
        count_text(value_at(validation, {"tokens"})),
        count_text(value_at(validation, {"learned_tokens"})),
        count_text(value_at(run.card, {"data", "overlap"})));
  const Json& examples = value_at(run.card, {"data", "examples"});
  if (!examples.is_array() || examples.empty()) return text;
  text += "<p>As the model sees them; what it learns is <mark>marked</mark>.</p>\n";
  for (size_t i = 0; i < examples.size(); ++i) text += rendered_example(examples[i], i);
  return text;
}

std::string samples(const RunFiles& run) {
  std::vector<std::string> prompts;  // in order of appearance
  std::map<std::string, std::vector<const Json*>> by_prompt;
  for (const Json& sample : run.samples) {
    const std::string prompt = sample["prompt"].get<std::string>();
    if (by_prompt[prompt].empty()) prompts.push_back(prompt);
    by_prompt[prompt].push_back(&sample);
  }
  std::string text;
  for (const std::string& prompt : prompts) {
    text += fmt::format("<div class=\"text\">{}</div>\n<div class=\"samples\">\n", escape(prompt));
    for (const Json* sample : by_prompt[prompt])
      text += fmt::format(
          "<div><span class=\"soft\">step {}</span><div class=\"text\">{}</div></div>\n",
          count_text((*sample)["step"]), escape((*sample)["sample"].get<std::string>()));
    text += "</div>\n";
  }
  return text;
}

std::string settings(const RunFiles& run) {
  if (run.settings.empty()) return "";
  const char* head = "<tr><th>setting</th><th>value</th><th>from</th></tr>\n";
  std::string given, others;
  for (const auto& [name, value] : run.settings.items()) {
    if (name == "_source") continue;
    (is_given(run.settings, name) ? given : others) += setting_row(run.settings, name, value);
  }
  return fmt::format(
      "<div class=\"scroll\"><table class=\"given\">{}{}</table></div>\n<details><summary>The "
      "others: "
      "built-in</summary><div class=\"scroll\"><table>{}{}</table></div></details>\n",
      head, given, head, others);
}

std::string environment(const RunFiles& run) {
  std::string rows;
  for (const char* part : {"model", "environment"}) {
    const Json& values = value_at(run.card, {part});
    if (!values.is_object()) continue;
    for (const auto& [name, value] : values.items()) {
      const bool bytes = name.ends_with("_bytes") && value.is_number();
      rows += row({cell(bytes ? name.substr(0, name.size() - 6) : name),
                   cell(bytes ? human_bytes(value.get<double>()) : count_text(value), "long")});
    }
  }
  const Json& starts = value_at(run.card, {"starts"});
  if (starts.is_array())
    for (const Json& start : starts)
      rows += row({cell("started " + value_text(value_at(start, {"time"}))),
                   cell(fmt::format("at step {}: {}", count_text(value_at(start, {"step"})),
                                    value_text(value_at(start, {"how"}))),
                        "long")});
  const Json& ended = value_at(run.card, {"ended", "time"});
  if (ended.is_string())
    rows += row({cell("ended " + value_text(ended)), cell(outline(run).state_text)});
  if (rows.empty()) return "";
  return "<div class=\"scroll\"><table>" + rows + "</table></div>\n";
}

std::string checkpoints(const RunFiles& run) {
  if (run.checkpoints.empty()) return "";
  std::map<int64_t, double> val_losses;
  for (const Record& record : run.records)
    if (record.val_loss) val_losses[record.step] = *record.val_loss;
  std::string text =
      "<div class=\"scroll\"><table><tr><th>checkpoint</th><th class=\"number\">validation "
      "loss</th><th class=\"number\">size</th><th>holds</th><th></th></tr>\n";
  for (const CheckpointEntry& entry : run.checkpoints) {
    const auto val_loss = val_losses.find(entry.step);
    text +=
        row({cell(entry.name),
             cell(val_loss == val_losses.end() ? "–" : fmt::format("{:.4f}", val_loss->second),
                  "number"),
             cell(human_bytes(static_cast<double>(entry.bytes)), "number"),
             cell(entry.has_optimizer ? "weights and optimizer" : "weights"),
             cell(std::string(entry.is_best ? "best " : "") + (entry.is_latest ? "latest" : ""))});
  }
  return text + "</table></div>\n";
}

std::string comparison(std::span<const RunFiles> runs) {
  std::string head = "<tr><th></th>", results;
  for (size_t i = 0; i < runs.size(); ++i)
    head += fmt::format("<th class=\"k{}\">{}</th>", i % 6, escape(runs[i].name));
  head += "</tr>\n";
  const auto line = [&](const std::string& name, const auto& text_of) {
    std::string text = "<tr>" + cell(name);
    for (const RunFiles& run : runs) text += cell(text_of(run), "long");
    return text + "</tr>\n";
  };
  const auto loss_text = [](const std::optional<double>& loss) {
    return loss ? fmt::format("{:.4f}", *loss) : std::string("–");
  };
  results += line("state", [](const RunFiles& r) { return outline(r).state_text; });
  results += line("steps", [](const RunFiles& r) { return grouped(outline(r).step); });
  results += line("best validation loss",
                  [&](const RunFiles& r) { return loss_text(outline(r).best_val_loss); });
  results += line("at step", [](const RunFiles& r) {
    const int64_t step = outline(r).best_step;
    return step < 0 ? std::string("–") : grouped(step);
  });
  results +=
      line("last training loss", [&](const RunFiles& r) { return loss_text(outline(r).loss); });
  results += line("tokens a second",
                  [](const RunFiles& r) { return human_count(outline(r).tokens_per_s); });
  results +=
      line("training time", [](const RunFiles& r) { return human_duration(outline(r).seconds); });
  results += line("warning signs", [](const RunFiles& r) {
    return std::to_string(std::count_if(r.signs.begin(), r.signs.end(), [](const Sign& s) {
      return s.level == Sign::Level::warning;
    }));
  });
  std::string differing;
  for (const Option& option : option_table()) {
    if (option.name == "out_dir") continue;
    const auto value = [&](const RunFiles& r) {
      return value_text(value_at(r.settings, {option.name.c_str()}));
    };
    const bool same = std::all_of(runs.begin(), runs.end(), [&](const RunFiles& r) {
      return value(r) == value(runs.front());
    });
    if (!same) differing += line(option.name, value);
  }
  std::string text =
      "<h2>Comparison</h2>\n<div class=\"scroll\"><table>" + head + results + "</table></div>\n";
  text += "<h3>Settings that differ</h3>\n";
  return text + (differing.empty()
                     ? "<p class=\"soft\">None.</p>\n"
                     : "<div class=\"scroll\"><table>" + head + differing + "</table></div>\n");
}

}  // namespace train_sft::page
