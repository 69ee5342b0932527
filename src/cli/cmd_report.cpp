#include <cstdio>
#include <set>

#include "cli/commands.h"
#include "train_sft/base/file.h"
#include "train_sft/report/page.h"

namespace train_sft::cli {
namespace {

std::vector<RunFiles> read_runs(const std::vector<std::string>& directories) {
  std::vector<RunFiles> runs;
  std::multiset<std::string> names;
  for (const std::string& directory : directories) {
    runs.push_back(read_run(directory));
    names.insert(runs.back().name);
  }
  for (RunFiles& run : runs)  // a/checkpoints beside b/checkpoints
    if (names.count(run.name) > 1) run.name = run.directory;
  return runs;
}

Outcome run_report(const Invocation& invocation) {
  if (invocation.positionals.empty())
    throw UsageError("report takes the out_dir of one or several runs");
  const std::vector<RunFiles> runs = read_runs(invocation.positionals);
  const bool markdown = invocation.value("markdown").get<bool>();
  if (markdown && runs.size() > 1)
    throw UsageError("markdown: a model card is about one run; {} are given", runs.size());
  std::string out = invocation.has("out") ? invocation.text("out") : "";
  if (out.empty())
    out = markdown          ? "-"
          : runs.size() > 1 ? "report.html"
                            : join_path(runs[0].directory, "report.html");
  const std::string text = markdown ? markdown_card(runs[0]) : html_page(runs);
  Outcome outcome;
  if (out == "-") {
    if (invocation.settings.config.json)
      throw UsageError("json contradicts printing the report itself; give --out FILE");
    std::fwrite(text.data(), 1, text.size(), stdout);
    return outcome;
  }
  write_file_atomically(out, text);
  outcome.result["path"] = out;
  for (const RunFiles& run : runs) {
    Json signs = Json::array();
    for (const Sign& sign : run.signs) signs.push_back(to_json(sign));
    outcome.result["runs"].push_back(
        {{"name", run.name}, {"summary", summary_sentence(run)}, {"signs", signs}});
    if (!invocation.settings.config.json) fmt::print("{}: {}\n", run.name, summary_sentence(run));
  }
  if (!invocation.settings.config.json) fmt::print("written to {}\n", out);
  return outcome;
}

}  // namespace

Command report_command() {
  Command command;
  command.name = "report";
  command.arguments = "RUN...";
  command.summary = "Shows a run, or several beside each other, as one HTML page or a model card.";
  command.examples = {
      "train_sft report checkpoints",
      "train_sft report lr_low lr_high --out compare.html",
      "train_sft report checkpoints --markdown --out checkpoints/best_model/README.md",
  };
  command.own_options = {
      own_option("out", "string", nullptr,
                 "Where it goes; - prints it [RUN/report.html; report.html for several]"),
      own_option("markdown", "bool", false,
                 "A model card instead of the page; printed without --out"),
  };
  command.run = run_report;
  return command;
}

}  // namespace train_sft::cli
