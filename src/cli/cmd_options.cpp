#include <cstdio>

#include "cli/commands.h"

namespace train_sft::cli {
namespace {

Json as_json(const Option& option) {
  Json json{{"name", option.name}, {"aliases", option.aliases}, {"group", option.group},
            {"type", option.type}, {"help", option.help},       {"default", option.default_text}};
  if (!option.choices.empty()) json["choices"] = option.choices;
  if (option.min) json["min"] = *option.min;
  if (option.max) json["max"] = *option.max;
  return json;
}

Outcome run_options(const Invocation& invocation) {
  if (invocation.value("markdown").get<bool>()) {
    if (invocation.settings.config.json) {
      throw UsageError("markdown contradicts json: both say how to print; give one");
    }
    fmt::print("{}", options_markdown());
    return {};
  }
  Outcome outcome;
  if (!invocation.settings.config.json) {
    fmt::print("{}", describe(invocation.settings, /*built_in=*/true));
    return outcome;
  }
  for (const Option& option : option_table()) outcome.result["options"].push_back(as_json(option));
  return outcome;
}

}  // namespace

Command options_command() {
  Command command;
  command.name = "options";
  command.summary = "Lists every option: in force here with its source, or as the README's table.";
  command.examples = {"train_sft options --config shakespeare_char", "train_sft options --markdown",
                      "train_sft options --json"};
  command.own_options = {own_option("markdown", "bool", false, "The README's table")};
  command.shared = {"*"};
  command.reads_files = true;
  command.run = run_options;
  return command;
}

}  // namespace train_sft::cli
