#include "cli/command_line.h"

#include <algorithm>

namespace train_sft::cli {
namespace {

constexpr const char* kSource = "command line";

std::string with_underscores(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

bool is_option(const std::string& word) {
  return word.size() > 2 && word.compare(0, 2, "--") == 0;
}

bool is_bool_word(const std::string& word) {
  static const std::vector<std::string> words{"true", "false", "1", "0", "yes", "no", "on", "off"};
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool goes_by(const Option& option, const std::string& name) {
  return option.name == name ||
         std::find(option.aliases.begin(), option.aliases.end(), name) != option.aliases.end();
}

const Option* find(const std::vector<Option>& options, const std::string& name) {
  const auto found = std::find_if(options.begin(), options.end(),
                                  [&](const Option& option) { return goes_by(option, name); });
  return found == options.end() ? nullptr : &*found;
}

[[noreturn]] void unknown_option(const Command& command, const std::vector<Option>& options,
                                 const std::string& name) {
  std::vector<std::string> known;
  for (const Option& option : options) {
    known.push_back(option.name);
    known.insert(known.end(), option.aliases.begin(), option.aliases.end());
  }
  const std::string nearest = nearest_name(name, known);
  const std::string hint = nearest.empty() ? fmt::format("; see train_sft {} --help", command.name)
                                           : fmt::format("; did you mean --{}?", nearest);
  if (find_option(name) != nullptr) {
    throw UsageError("--{} is an option of training, not of '{}'{}", name, command.name, hint);
  }
  throw UsageError("unknown option --{}{}", name, hint);
}

// One option as written: which, by which of its names, and its texts.
struct Given {
  const Option* option;
  std::string spelled;
  std::vector<std::string> texts;
};

class Parser {
 public:
  Parser(const Command& command, const std::vector<std::string>& words)
      : command_(command), words_(words), options_(options_of(command)) {}

  Invocation parse() {
    while (at_ < words_.size()) take(words_[at_++]);
    Invocation invocation;
    invocation.positionals = std::move(positionals_);
    invocation.help = help_;
    if (help_) return invocation;
    fill_own(invocation);
    if (command_.reads_files) {
      const Json& config = invocation.value("config");
      apply_files(invocation.settings, config.is_null() ? "" : config.get<std::string>());
    }
    fill_shared(invocation);
    return invocation;
  }

 private:
  void take(const std::string& word) {
    if (word == "--help" || word == "-h") {
      help_ = true;
    } else if (is_option(word)) {
      take_option(word);
    } else if (word.size() > 1 && word[0] == '-' && word != "--") {
      throw UsageError("unknown option {}; options begin with two dashes", word);
    } else if (command_.arguments.empty()) {
      throw UsageError("unexpected '{}'; options are written --name VALUE", word);
    } else {
      positionals_.push_back(word);
    }
  }

  void take_option(const std::string& word) {
    const size_t equals = word.find('=');
    const std::string name =
        with_underscores(word.substr(2, equals == word.npos ? equals : equals - 2));
    const Option* option = find(options_, name);
    if (option == nullptr) unknown_option(command_, options_, name);
    Given given{option, name, {}};
    if (equals != word.npos) {
      given.texts.push_back(word.substr(equals + 1));
    } else if (option->type == "bool") {
      const bool value_follows = at_ < words_.size() && is_bool_word(words_[at_]);
      given.texts.push_back(value_follows ? words_[at_++] : "true");
    } else {
      take_values(given);
    }
    given_.push_back(std::move(given));
  }

  // A value may begin with one dash (-1), not with two: that is the next option.
  void take_values(Given& given) {
    while (at_ < words_.size() && !is_option(words_[at_])) {
      given.texts.push_back(words_[at_++]);
      if (given.option->type != "list") break;
    }
    if (given.texts.empty()) {
      throw UsageError("--{} needs a value; one that begins with two dashes is written --{}=VALUE",
                       given.spelled, given.spelled);
    }
  }

  static Json value_of(const Given& given) {
    if (given.option->type != "list") return parse_option_text(*given.option, given.texts.back());
    return given.texts;
  }

  void fill_own(Invocation& invocation) {
    for (const Option& option : options_) {
      if (option.set == nullptr) invocation.own[option.name] = parse_json(option.default_text, "");
    }
    for (const Given& given : merged()) {
      if (given.option->set != nullptr) continue;
      invocation.own[given.option->name] = checked_value(*given.option, value_of(given));
    }
  }

  void fill_shared(Invocation& invocation) {
    for (const Given& given : merged()) {
      if (given.option->set != nullptr) {
        invocation.settings.set(given.spelled, value_of(given), kSource);
      }
    }
  }

  // --data a --data b is one list.
  std::vector<Given> merged() const {
    std::vector<Given> result;
    for (const Given& given : given_) {
      const auto same = std::find_if(result.begin(), result.end(), [&](const Given& earlier) {
        return given.option->type == "list" && earlier.option == given.option;
      });
      if (same == result.end()) {
        result.push_back(given);
      } else {
        same->texts.insert(same->texts.end(), given.texts.begin(), given.texts.end());
      }
    }
    return result;
  }

  const Command& command_;
  const std::vector<std::string>& words_;
  const std::vector<Option> options_;
  size_t at_ = 0;
  std::vector<Given> given_;
  std::vector<std::string> positionals_;
  bool help_ = false;
};

}  // namespace

const Json& Invocation::value(const std::string& name) const {
  const auto found = own.find(name);
  TRAIN_SFT_CHECK(found != own.end(), "the command has no option of its own called '{}'", name);
  return found->second;
}

Option own_option(std::string name, std::string type, Json fallback, std::string help) {
  Option option;
  option.name = std::move(name);
  option.type = std::move(type);
  option.help = std::move(help);
  option.default_text = fallback.dump();  // as JSON: read back by the parser
  option.set = nullptr;
  option.get = nullptr;
  return option;
}

Option own_option(std::string name, std::string type, Json fallback, std::string help, double min,
                  double max) {
  Option option =
      own_option(std::move(name), std::move(type), std::move(fallback), std::move(help));
  option.min = min;
  option.max = max;
  return option;
}

std::vector<Option> options_of(const Command& command) {
  std::vector<Option> options = command.own_options;
  for (Option& option : options) option.group = "Options of " + command.name;
  if (command.reads_files) {
    Option config = own_option("config", "string", nullptr, kConfigHelp);
    config.group = "Options of " + command.name;
    options.push_back(std::move(config));
  }
  for (const Option& option : option_table()) {
    const bool shared =
        std::any_of(command.shared.begin(), command.shared.end(), [&](const std::string& wanted) {
          return wanted == "*" || wanted == option.name || wanted == option.group;
        });
    if (shared || option.name == "json") options.push_back(option);
  }
  return options;
}

Invocation parse_command_line(const Command& command, const std::vector<std::string>& words) {
  return Parser(command, words).parse();
}

}  // namespace train_sft::cli
