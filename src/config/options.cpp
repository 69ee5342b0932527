#include "train_sft/config/options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

std::string canonical_spelling(std::string_view name) {
  std::string spelled(name);
  std::replace(spelled.begin(), spelled.end(), '-', '_');
  return spelled;
}

// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = last[j - 1] + (a[i - 1] != b[j - 1] ? 1 : 0);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, change});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

// Settings that say the same thing in different words: a later level's word replaces an earlier
// level's. Two at one level are looked at by validate() and resolve_batch().
const std::vector<std::vector<std::string>>& exclusive_groups() {
  static const std::vector<std::vector<std::string>> groups{
      {"max_iters", "epochs", "extend_steps"},
      {"grad_accum", "total_batch_size", "target_examples_per_step"},
      {"val_data", "val_split"},
      {"tokenizer", "tokenizer_type"},
  };
  return groups;
}

}  // namespace

std::string nearest_name(std::string_view unknown, const std::vector<std::string>& known) {
  const std::string name = canonical_spelling(unknown);
  std::string nearest;
  size_t least = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  if (!nearest.empty() || name.size() < 3) return nearest;
  for (const std::string& candidate : known) {
    if (candidate.find(name) != std::string::npos) return candidate;
  }
  return "";
}

const Option* find_option(std::string_view name) {
  static const auto index = [] {
    std::map<std::string, const Option*, std::less<>> names;
    for (const Option& option : option_table()) {
      names.emplace(option.name, &option);
      for (const std::string& alias : option.aliases) names.emplace(alias, &option);
    }
    return names;
  }();
  const auto found = index.find(canonical_spelling(name));
  return found == index.end() ? nullptr : found->second;
}

std::string nearest_option(std::string_view name) {
  std::vector<std::string> known;
  for (const Option& option : option_table()) {
    known.push_back(option.name);
    known.insert(known.end(), option.aliases.begin(), option.aliases.end());
  }
  return nearest_name(name, known);
}

Json parse_option_text(const Option& option, const std::string& text) {
  if (option.type == "string") return text;
  if (option.type == "list") return Json::array({text});
  if (option.type == "bool") {
    const std::vector<std::string> yes{"true", "1", "yes", "on"}, no{"false", "0", "no", "off"};
    if (std::find(yes.begin(), yes.end(), text) != yes.end()) return true;
    if (std::find(no.begin(), no.end(), text) != no.end()) return false;
    return text;  // refused by set(), which knows what to say
  }
  // JSON's numbers, plus the "+5", ".5", "5." and "05" that people type.
  const char* end = text.data() + text.size();
  const char* begin = text.data() + (text.size() > 1 && text[0] == '+' ? 1 : 0);
  int64_t integer = 0;
  if (const auto parsed = std::from_chars(begin, end, integer);
      parsed.ec == std::errc() && parsed.ptr == end) {
    return integer;
  }
  double number = 0;
  if (const auto parsed = std::from_chars(begin, end, number);
      parsed.ec == std::errc() && parsed.ptr == end) {
    return number;
  }
  return text;
}

void Settings::set(const std::string& name, const Json& value, const std::string& from) {
  const Option* option = find_option(name);
  if (option == nullptr) {
    const std::string nearest = nearest_option(name);
    throw UsageError("{}: unknown option '{}'{}", from, name,
                     nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest));
  }
  const std::string spelled = canonical_spelling(name);
  const Json before = option->get(config);
  try {
    option->set(config, *option, value);
  } catch (const UsageError& error) {
    throw UsageError("{} ({})", error.what(), from);
  }
  const auto earlier = spelling_.find(option->name);
  const bool same_level = given(option->name) && source[option->name] == from;
  if (same_level && earlier != spelling_.end() && earlier->second != spelled &&
      before != option->get(config)) {
    throw UsageError("{}: {} is given as {} and, under its other name {}, as {}; give it once",
                     from, option->name, before.dump(), spelled, option->get(config).dump());
  }
  spelling_[option->name] = spelled;
  source[option->name] = from;
  if (std::find(levels_.begin(), levels_.end(), from) == levels_.end()) levels_.push_back(from);
  replace_rivals(option->name, from);
}

void Settings::replace_rivals(const std::string& name, const std::string& from) {
  static const TrainConfig defaults;
  for (const auto& group : exclusive_groups()) {
    if (std::find(group.begin(), group.end(), name) == group.end()) continue;
    for (const std::string& rival : group) {
      if (rival == name || !given(rival) || source[rival] == from) continue;
      const Option* option = find_option(rival);
      option->set(config, *option, option->get(defaults));
      source.erase(rival);
    }
  }
}

bool Settings::given(std::string_view name) const {
  const Option* option = find_option(name);
  TRAIN_SFT_CHECK(option != nullptr, "no option '{}'", name);
  return source.count(option->name) > 0;
}

int Settings::level(std::string_view name) const {
  if (!given(name)) return -1;
  const std::string& from = source.at(find_option(name)->name);
  return static_cast<int>(std::find(levels_.begin(), levels_.end(), from) - levels_.begin());
}

std::string describe(const Settings& settings, bool built_in) {
  const TrainConfig defaults;
  std::string text, group;
  for (const Option& option : option_table()) {
    const auto from = settings.source.find(option.name);
    if (from == settings.source.end() && !built_in) continue;
    if (option.group != group) {
      group = option.group;
      text += fmt::format("{}\n", group);
    }
    const Json value = option.get(settings.config);
    // A default is shown in words ("learning_rate / 10", "the cores this process may use").
    const bool as_built = from == settings.source.end() && value == option.get(defaults);
    text += fmt::format("  {:<26} {:<24} {}\n", option.name,
                        as_built ? option.default_text : value.dump(),
                        from == settings.source.end() ? "built-in" : from->second);
  }
  return text;
}

Json to_json(const Settings& settings) {
  Json json = Json::object();
  for (const Option& option : option_table()) json[option.name] = option.get(settings.config);
  json["_source"] = Json::object();
  for (const auto& [name, from] : settings.source) json["_source"][name] = from;
  return json;
}

std::string choices_text(const Option& option) {
  if (option.choices.empty()) return {};
  return fmt::format("({}{})", fmt::join(option.choices, ", "),
                     option.or_file ? ", or a .json file" : "");
}

std::string options_markdown() {
  std::string text = fmt::format("\n`config`: {}.\n", kConfigHelp);
  std::string group;
  for (const Option& option : option_table()) {
    if (option.group != group) {
      group = option.group;
      text += fmt::format(
          "\n**{}**\n\n| option | also accepted as | default | what it does |\n"
          "|---|---|---|---|\n",
          group);
    }
    std::string aliases;
    for (const std::string& alias : option.aliases) {
      aliases += fmt::format("{}`{}`", aliases.empty() ? "" : ", ", alias);
    }
    const std::string choices = choices_text(option);
    text += fmt::format("| `{}` | {} | {} | {}{}{} |\n", option.name, aliases, option.default_text,
                        option.help, choices.empty() ? "" : " ", choices);
  }
  return text;
}

}  // namespace train_sft
