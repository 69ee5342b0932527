// From the words of a command line to settings. The options of training come from the one option
// table; a command adds its own rows in the same form.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/config/options.h"
#include "train_sft/dist/environment.h"

namespace train_sft::cli {

// Where a launcher has put this process, by its variables. They may be wrong: only training asks.
struct Surroundings {
  std::optional<ProcessPlace> found;
  std::string wrong;  // what is, and how to mend it; "": nothing

  // Throws UsageError.
  const std::optional<ProcessPlace>& place() const {
    if (!wrong.empty()) throw UsageError("{}", wrong);
    return found;
  }
};

// What a command was called with.
struct Invocation {
  Settings settings;
  std::map<std::string, Json> own;  // values of the command's own options, defaults filled in
  std::vector<std::string> positionals;
  std::vector<std::string> words;  // all of the command line, after the program's name
  Surroundings surroundings;
  bool help = false;

  const Json& value(const std::string& name) const;
  std::string text(const std::string& name) const { return value(name).get<std::string>(); }
  int64_t integer(const std::string& name) const { return value(name).get<int64_t>(); }
  double number(const std::string& name) const { return value(name).get<double>(); }
  bool has(const std::string& name) const { return !value(name).is_null(); }
};

struct Outcome {
  ExitCode code = ExitCode::ok;
  Json result = Json::object();  // printed on stdout with --json
};

struct Command {
  std::string name;
  std::string arguments;              // "PATH", shown in the usage line; "" takes none
  std::string summary;                // one sentence
  std::vector<std::string> examples;  // complete command lines
  std::vector<Option> own_options;    // without set and get
  std::vector<std::string> shared;    // names and groups of the option table; {"*"}: all of it
  bool reads_files = false;           // ./train_sft.json and --config
  Outcome (*run)(const Invocation&) = nullptr;
};

// A row of a command's own. `fallback` is its default; null: not given.
Option own_option(std::string name, std::string type, Json fallback, std::string help);
Option own_option(std::string name, std::string type, Json fallback, std::string help, double min,
                  double max);

// Everything a command accepts, in the order of --help.
std::vector<Option> options_of(const Command& command);

// Throws UsageError: an unknown option with the nearest valid one, a missing value, ...
Invocation parse_command_line(const Command& command, const std::vector<std::string>& words);

std::string help_text(const Command& command);
std::string program_help(const std::vector<Command>& commands);

}  // namespace train_sft::cli
