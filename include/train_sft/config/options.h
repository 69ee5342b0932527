// The one table of options. The command line, configuration files, validation, the start print-out
// and the README's table all come from it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/config/train_config.h"

namespace train_sft {

struct Option {
  std::string name;  // canonical, with underscores
  std::vector<std::string> aliases;
  std::string group;                 // heading in --help and the README
  std::string help;                  // one sentence
  std::string type;                  // int, float, string, bool, list
  std::string value_name;            // PATH, in --help; "": told by the type
  std::string default_text;          // as shown to people
  std::vector<std::string> choices;  // allowed values, when few
  bool or_file = false;              // besides choices: the path of a .json file
  std::optional<double> min, max;    // inclusive
  // Reads and writes the field in TrainConfig. set() throws UsageError naming option, value and
  // what was expected.
  void (*set)(TrainConfig&, const Option&, const Json& value);
  Json (*get)(const TrainConfig&);
};

const std::vector<Option>& option_table();
// By name or alias; '-' and '_' are the same. nullptr when unknown.
const Option* find_option(std::string_view name);
// The known name nearest to an unknown one by edit distance, or "" when none is near.
std::string nearest_option(std::string_view name);
// The same among other names (subcommands, presets).
std::string nearest_name(std::string_view unknown, const std::vector<std::string>& known);
// "(a, b, c)" of an option with choices, else "".
std::string choices_text(const Option& option);
// A command line's text as the JSON value that set() takes, by the option's type.
Json parse_option_text(const Option& option, const std::string& text);

// The value, converted and checked against the option's type, range and choices.
Json checked_value(const Option& option, const Json& value);

// --config stands beside the table: it is where settings come from, not one of them.
inline constexpr const char* kConfigHelp = "A preset's name in configs/, or a JSON file of options";

// A setting's source: "built-in", "train_sft.json", "configs/tiny.json", "command line".
struct Settings {
  TrainConfig config;
  std::map<std::string, std::string> source;  // by canonical option name; absent: built-in

  // Sources must come in order of rising precedence. Of settings that say the same thing
  // (max_iters, epochs, extend_steps; grad_accum, total_batch_size, target_examples_per_step;
  // val_data, val_split; tokenizer, tokenizer_type) a later source's replaces an earlier source's.
  void set(const std::string& name, const Json& value, const std::string& from);
  bool given(std::string_view name) const;  // not built-in
  int level(std::string_view name) const;   // rank of its source; -1: built-in

 private:
  void replace_rivals(const std::string& name, const std::string& from);

  std::vector<std::string> levels_;              // sources in order of rising precedence
  std::map<std::string, std::string> spelling_;  // which of its names an option was last given by
};

// Applies a JSON object of options. Unknown names throw UsageError with the nearest valid one. The
// key "description" is for people. to_json()'s output is accepted too: it gives what was given
// then.
void apply_json(Settings& settings, const Json& object, const std::string& from);
// Applies ./train_sft.json if there, then --config (a name in configs/ or a path).
// Presets are searched in ./configs, beside the program (../configs) and its install folder.
// A file may itself name another to build on, under "config".
void apply_files(Settings& settings, const std::string& config_name_or_path);
std::vector<std::string> preset_names();
// Contradictions between settings, whatever their source: throws UsageError naming both.
void validate(const Settings& settings);
// Throws UsageError with the line to add when no data is given.
void require_data(const Settings& settings);
// The settings with their sources, a line an option: all that are in force, or without those left at
// their built-in value; and as JSON for config.json.
std::string describe(const Settings& settings, bool built_in);
Json to_json(const Settings& settings);
// The README's flag table (markdown).
std::string options_markdown();

}  // namespace train_sft
