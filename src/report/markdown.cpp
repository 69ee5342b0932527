// The model card: Markdown with the metadata block that model hubs read
// (https://huggingface.co/docs/hub/model-cards).
#include <fmt/format.h>

#include <cmath>

#include "report/summary.h"
#include "train_sft/base/progress.h"
#include "train_sft/report/page.h"

namespace train_sft {
namespace {

// Text between table bars: no bar, line break or tag of the data's own making.
std::string plain(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n' || c == '\r')
      out += ' ';
    else if (std::string_view("|<>`*[]\\").find(c) != std::string_view::npos)
      out += std::string("\\") + c;
    else
      out += c;
  }
  return out;
}

// A block fenced by more backticks than the text has in a row.
std::string fenced(const std::string& text) {
  size_t longest = 2, run = 0;
  for (const char c : text) longest = std::max(longest, run = c == '`' ? run + 1 : 0);
  const std::string fence(longest + 1, '`');
  return fence + "text\n" + text + "\n" + fence + "\n";
}

std::string table(const std::string& left, const std::string& right, const std::string& rows) {
  return rows.empty() ? "" : fmt::format("| {} | {} |\n|---|---|\n{}\n", left, right, rows);
}

std::string line(const std::string& name, const std::string& value) {
  return fmt::format("| {} | {} |\n", plain(name), plain(value));
}

std::string object_rows(const Json& object) {
  std::string rows;
  if (!object.is_object()) return rows;
  for (const auto& [name, value] : object.items()) {
    if (value.is_object() || (value.is_array() && value.empty())) continue;
    const bool bytes = name.ends_with("_bytes") && value.is_number();
    rows += bytes ? line(name.substr(0, name.size() - 6), human_bytes(value.get<double>()))
                  : line(name, value_text(value));
  }
  return rows;
}

std::string given_rows(const Json& settings) {
  std::string rows;
  for (const auto& [name, value] : settings.items())
    if (name != "_source" && !value_at(settings, {"_source", name.c_str()}).is_null())
      rows += line(name, value_text(value));
  return rows;
}

std::string results(const RunFiles& run) {
  const Outline o = outline(run);
  std::string rows =
      line("steps", grouped(o.step)) + line("epochs", fmt::format("{:.3f}", o.epoch));
  if (o.loss) rows += line("training loss", fmt::format("{:.4f}", *o.loss));
  if (o.best_val_loss) {
    rows += line("best validation loss", fmt::format("{:.4f}", *o.best_val_loss));
    rows += line("its perplexity", fmt::format("{:.2f}", std::exp(*o.best_val_loss)));
    rows += line("at step", grouped(o.best_step));
  }
  rows += line("tokens a second", human_count(o.tokens_per_s));
  return rows + line("training time", human_duration(o.seconds));
}

std::string last_samples(const RunFiles& run) {
  std::string text;
  if (run.samples.empty()) return text;
  const Json& step = run.samples.back()["step"];
  for (const Json& sample : run.samples)
    if (sample["step"] == step)
      text += fenced(sample["prompt"].get<std::string>() + sample["sample"].get<std::string>());
  return text;
}

std::string part(const char* title, const std::string& content) {
  return content.empty() ? "" : fmt::format("## {}\n\n{}\n", title, content);
}

}  // namespace

std::string markdown_card(const RunFiles& run) {
  std::string text =
      "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- train_sft\n---\n\n";
  text += fmt::format("# {}\n\n{}\n\n", plain(run.name), plain(summary_sentence(run)));
  text += part("Results", table("measure", "value", results(run)));
  text += part("Model", table("part", "value", object_rows(value_at(run.card, {"model"}))));
  text +=
      part("Training data", table("measure", "value",
                                  line("files", value_text(value_at(run.card, {"data", "files"}))) +
                                      object_rows(value_at(run.card, {"data", "train"}))));
  text += part("Settings", table("setting", "value", given_rows(run.settings)) +
                               "Every other setting: train_sft's default.\n");
  std::string signs;
  for (const Sign& sign : run.signs)
    if (sign.level == Sign::Level::warning)
      signs += fmt::format("- {} at step {}: {}\n", plain(sign.rule), grouped(sign.step),
                           plain(sign.evidence));
  text += part("Signs seen in training", signs);
  text += part("Samples", last_samples(run));
  return text + part("Environment",
                     table("part", "value", object_rows(value_at(run.card, {"environment"}))));
}

}  // namespace train_sft
