#include <fmt/ranges.h>

#include <algorithm>

#include "cli/command_line.h"

namespace train_sft::cli {
namespace {

constexpr size_t kHelpColumn = 30;
constexpr size_t kWidth = 100;

std::string wrapped(const std::string& text, size_t indent) {
  std::string out;
  size_t column = indent;
  size_t start = 0;
  while (start < text.size()) {
    const size_t space = std::min(text.find(' ', start), text.size());
    const std::string word = text.substr(start, space - start);
    if (column > indent && column + 1 + word.size() > kWidth) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    }
    if (column > indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    start = space + 1;
  }
  return out;
}

std::string value_text(const Option& option) {
  static const std::map<std::string, std::string> by_type{
      {"int", "INT"}, {"float", "FLOAT"}, {"string", "TEXT"}, {"list", "TEXT"}};
  if (option.type == "bool") return "";
  const std::string name = option.value_name.empty() ? by_type.at(option.type) : option.value_name;
  return " " + name + (option.type == "list" ? "..." : "");
}

std::string described(const Option& option) {
  std::string text = option.help;
  if (!option.choices.empty()) text += " " + choices_text(option);
  // A command's own row holds its default as JSON.
  std::string fallback = option.default_text;
  if (option.set == nullptr) {
    const Json value = parse_json(fallback, "");
    fallback = value.is_null() ? "" : value.is_string() ? value.get<std::string>() : value.dump();
  }
  if (!fallback.empty() && fallback != "none" && fallback != "false") {
    text += fmt::format(" [{}]", fallback);
  }
  if (!option.aliases.empty()) {
    text += fmt::format("; also --{}", fmt::join(option.aliases, ", --"));
  }
  return text;
}

std::string option_lines(const std::vector<Option>& options) {
  std::string text, group;
  for (const Option& option : options) {
    if (option.group != group) {
      group = option.group;
      text += fmt::format("\n{}\n", group);
    }
    std::string head = "  --" + option.name + value_text(option);
    if (head.size() + 1 > kHelpColumn) {
      head += "\n" + std::string(kHelpColumn, ' ');
    } else {
      head.resize(std::max(head.size(), kHelpColumn), ' ');
    }
    text += head + wrapped(described(option), kHelpColumn) + "\n";
  }
  return text;
}

std::string example_lines(const Command& command) {
  std::string text = "Examples\n";
  for (const std::string& example : command.examples) text += "  " + example + "\n";
  return text;
}

}  // namespace

std::string help_text(const Command& command) {
  return fmt::format("{}\n{}\n\nUsage: train_sft {}{}{} [options]\n{}", example_lines(command),
                     command.summary, command.name, command.arguments.empty() ? "" : " ",
                     command.arguments, option_lines(options_of(command)));
}

std::string program_help(const std::vector<Command>& commands) {
  const Command& train = commands.front();
  std::string text = example_lines(train);
  text +=
      "\nUsage: train_sft [COMMAND] [options]\n\nCommands (--help after one shows its options)\n";
  for (const Command& command : commands) {
    text += fmt::format("  {:<10} {}{}\n", command.name, command.summary,
                        &command == &train ? " (the default)" : "");
  }
  return text + option_lines(options_of(train));
}

}  // namespace train_sft::cli
