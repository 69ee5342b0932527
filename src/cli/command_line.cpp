#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>

namespace train_sft::cli {
namespace {

constexpr const char* kSource = "command line";
constexpr std::string_view kNoValue{"\0", 1};  // no word of a command line can be this
constexpr int kMostValues = 1 << 20;

std::string replaced(std::string name, char from, char to) {
  std::replace(name.begin(), name.end(), from, to);
  return name;
}

bool is_bool_word(const std::string& word) {
  static const std::vector<std::string> words{"true", "false", "1", "0", "yes", "no", "on", "off"};
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool is_negative_number(const std::string& word) {
  const size_t digit = word.rfind("-.", 0) == 0 ? 2 : 1;
  return word.size() > digit && word[0] == '-' &&
         std::isdigit(static_cast<unsigned char>(word[digit]));
}

// "--mini-batch_size=8" as "--mini_batch_size=8": '-' and '_' are the same in names.
std::string with_underscores(const std::string& word) {
  if (word.rfind("--", 0) != 0) return word;
  const size_t end = std::min(word.find('='), word.size());
  return "--" + replaced(word.substr(2, end - 2), '-', '_') + word.substr(end);
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

// One option as written: which, by which of its names, and its value.
struct Given {
  const Option* option;
  std::string spelled;
  Json value;
};

// CLI11 splits the words; what their texts may be is the option table's to say.
class Parser {
 public:
  explicit Parser(const Command& command) : command_(command), options_(options_of(command)) {
    app_.set_help_flag();  // CLI11's own ends parsing by an exception
    app_.allow_extras();   // unknown_option() knows more than CLI11's error
    app_.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    help_ = app_.add_flag("-h,--help");
    for (const Option& option : options_) {
      declare(option, option.name);
      for (const std::string& alias : option.aliases) declare(option, alias);
    }
  }

  Invocation parse(const std::vector<std::string>& words) {
    std::vector<std::string> last_first = as_cli11_reads(words);
    std::reverse(last_first.begin(), last_first.end());
    app_.parse(last_first);
    Invocation invocation;
    invocation.help = help_->count() > 0;
    if (invocation.help) return invocation;
    const std::vector<Given> all = given();
    for (const std::string& word : app_.remaining()) invocation.positionals.push_back(extra(word));
    for (const Option& option : options_) {
      if (option.set == nullptr) invocation.own[option.name] = parse_json(option.default_text, "");
    }
    for (const auto& [option, spelled, value] : all) {
      if (option->set == nullptr) invocation.own[option->name] = checked_value(*option, value);
    }
    if (command_.reads_files) {
      const Json& config = invocation.value("config");
      apply_files(invocation.settings, config.is_null() ? "" : config.get<std::string>());
    }
    for (const auto& [option, spelled, value] : all) {
      if (option->set != nullptr) invocation.settings.set(spelled, value, kSource);
    }
    return invocation;
  }

 private:
  // Each name is an option to CLI11, so that it says which of them was used.
  void declare(const Option& option, const std::string& name) {
    const std::string spelled = "--" + name;
    CLI::Option* added = option.type == "bool" ? app_.add_flag(spelled)
                                               : app_.add_option(spelled, CLI::callback_t());
    if (option.type != "bool") {
      // At least none: were it one, CLI11 would take the next option for the value.
      added->expected(0, option.type == "list" ? kMostValues : 1)
          ->default_str(std::string(kNoValue));
    }
    declared_[added] = {&option, name, {}};
  }

  // CLI11 gives a switch a value only after '=', takes "--name=" for a name without a value and
  // "-.5" for an option, and does not know that '-' and '_' are the same in names.
  std::vector<std::string> as_cli11_reads(const std::vector<std::string>& words) const {
    std::vector<std::string> result;
    bool names = true;  // until a lone "--"
    for (const std::string& given : words) {
      names = names && given != "--";
      const std::string word = names ? with_underscores(given) : given;
      const CLI::Option* before =
          result.empty() ? nullptr : app_.get_option_no_throw(result.back());
      const bool switch_before = before != nullptr && before->get_items_expected_max() == 0;
      if (switch_before ? is_bool_word(word) : before != nullptr && is_negative_number(word)) {
        result.back() += "=" + word;
      } else if (word.rfind("--", 0) == 0 && word.find('=') == word.size() - 1) {
        result.insert(result.end(), {word.substr(0, word.size() - 1), ""});
      } else {
        result.push_back(word);
      }
    }
    return result;
  }

  // A word that is no option's.
  const std::string& extra(const std::string& word) const {
    if (word.size() > 2 && word.rfind("--", 0) == 0) {
      unknown_option(command_, options_, word.substr(2, word.find('=') - 2));
    }
    if (word.size() > 1 && word[0] == '-' && word != "--") {
      throw UsageError("unknown option {}; options begin with two dashes", word);
    }
    if (command_.arguments.empty()) {
      throw UsageError("unexpected '{}'; options are written --name VALUE", word);
    }
    return word;
  }

  // In the order of the command line; --data a --data b is one list.
  std::vector<Given> given() const {
    std::vector<Given> result;
    std::map<const CLI::Option*, size_t> read;
    for (const CLI::Option* parsed : app_.parse_order()) {
      Given next = declared_.at(parsed);
      const std::string& text = parsed->results()[read[parsed]++];
      if (text == kNoValue) {
        throw UsageError("--{} needs a value; one that begins with a dash is written --{}=VALUE",
                         next.spelled, next.spelled);
      }
      next.value = parse_option_text(*next.option, text);
      const auto same = std::find_if(result.begin(), result.end(), [&](const Given& earlier) {
        return next.option->type == "list" && earlier.option == next.option;
      });
      if (same == result.end()) {
        result.push_back(std::move(next));
      } else {
        same->value.push_back(text);
      }
    }
    return result;
  }

  const Command& command_;
  const std::vector<Option> options_;
  CLI::App app_;
  CLI::Option* help_ = nullptr;
  std::map<const CLI::Option*, Given> declared_;
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
    config.value_name = "NAME|PATH";
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
  return Parser(command).parse(words);
}

}  // namespace train_sft::cli
