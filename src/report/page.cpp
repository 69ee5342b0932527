#include "train_sft/report/page.h"

#include <fmt/format.h>

#include "report/assets.h"
#include "report/html.h"
#include "report/page_numbers.h"
#include "report/page_sections.h"
#include "report/summary.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"

namespace train_sft {
namespace {

using html::escape;

std::string section(const char* title, const std::string& content) {
  return content.empty() ? "" : fmt::format("<h2>{}</h2>\n{}", title, content);
}

const char* state_class(RunState state) {
  if (state == RunState::done) return "done";
  return state == RunState::running ? "running" : "stopped";
}

std::string header(const RunFiles& run) {
  const Outline o = outline(run);
  return fmt::format(
      "<h1>{} <span class=\"state {}\">{}</span></h1>\n<p class=\"lead\">{}</p>\n"
      "<p class=\"soft\">{}</p>\n",
      escape(run.name), state_class(o.state), escape(o.state_text), escape(summary_sentence(run)),
      escape(run.directory));
}

std::string charts() {
  const auto figure = [](const char* css, const char* series, const char* title) {
    return fmt::format(
        "<figure class=\"{}\" data-series=\"{}\"><figcaption>{}</figcaption></figure>\n", css,
        series, title);
  };
  return "<div class=\"controls\" id=\"controls\"></div>\n<div class=\"charts\">\n" +
         figure("wide", "loss", "Loss") + figure("", "perplexity", "Validation perplexity") +
         figure("", "lr", "Learning rate") + figure("", "grad_norm", "Gradient norm") +
         figure("", "tokens_per_s", "Tokens a second") +
         "</div>\n<noscript><p>The curves need a browser that runs scripts.</p></noscript>\n";
}

std::string sections(const RunFiles& run) {
  return section("Data", page::data(run)) + section("Samples over time", page::samples(run)) +
         section("Settings", page::settings(run)) + section("Checkpoints", page::checkpoints(run)) +
         section("Model and environment", page::environment(run));
}

std::string body(std::span<const RunFiles> runs) {
  if (runs.size() == 1)
    return header(runs[0]) + section("Signs", page::signs(runs[0])) + section("Curves", charts()) +
           sections(runs[0]);
  std::string text = fmt::format("<h1>{} runs</h1>\n", runs.size());
  for (const RunFiles& run : runs)
    text += fmt::format("<p><b>{}</b>: {}</p>\n", escape(run.name), escape(summary_sentence(run)));
  text += page::comparison(runs) + section("Curves", charts());
  for (const RunFiles& run : runs)
    text += fmt::format(
        "<h2>{}</h2>\n<p class=\"soft\">{}</p>\n<h3>Signs</h3>\n{}<details><summary>Data, "
        "samples, settings, checkpoints</summary>\n{}</details>\n",
        escape(run.name), escape(run.directory), page::signs(run), sections(run));
  return text;
}

}  // namespace

std::string html_page(std::span<const RunFiles> runs) {
  TRAIN_SFT_CHECK(!runs.empty(), "no runs");
  const std::string content = body(runs);
  const std::string numbers =
      html::escape_json(page_numbers(runs).dump(-1, ' ', false, Json::error_handler_t::replace));
  // Only elements that carry this word are styles and scripts; text inside the page cannot know it.
  const std::string nonce = checksum_of(content + numbers);
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'nonce-{0}'; script-src 'nonce-{0}'; base-uri 'none'; form-action 'none'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{1}</title>\n<style nonce=\"{0}\">\n{2}</style>\n</head>\n<body>\n{3}"
      "<script type=\"application/json\" id=\"numbers\">{4}</script>\n"
      "<script nonce=\"{0}\">\n{5}</script>\n</body>\n</html>\n",
      nonce,
      escape(runs.size() == 1 ? runs[0].name + " – train_sft"
                              : fmt::format("{} runs – train_sft", runs.size())),
      page_assets::kStyle, content, numbers, page_assets::kCharts);
}

void write_report(const std::string& directory) {
  const RunFiles run = read_run(directory);
  write_file_atomically(join_path(directory, "report.html"), html_page({&run, 1}));
}

}  // namespace train_sft
