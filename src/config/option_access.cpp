#include "config/option_access.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "train_sft/base/error.h"

namespace train_sft::option_access {
namespace {

std::string shown(const Json& value) {
  return value.is_string()
             ? value.get<std::string>()
             : value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80);
}

std::string range_text(const Option& option) {
  const auto number = [](double x) { return fmt::format("{}", x); };
  if (option.min && option.max) {
    return fmt::format(" from {} to {}", number(*option.min), number(*option.max));
  }
  if (option.min) return fmt::format(" of at least {}", number(*option.min));
  if (option.max) return fmt::format(" of at most {}", number(*option.max));
  return "";
}

[[noreturn]] void refuse(const Option& option, const Json& value, const std::string& expected) {
  throw UsageError("{}: '{}' is not valid, expected {}", option.name, shown(value), expected);
}

bool in_range(const Option& option, double value) {
  return (!option.min || value >= *option.min) && (!option.max || value <= *option.max);
}

}  // namespace

int64_t to_int(const Option& option, const Json& value) {
  std::string expected = "a whole number" + range_text(option);
  if (!option.choices.empty()) expected += fmt::format(", or {}", fmt::join(option.choices, ", "));
  double number = 0;
  if (value.is_number_integer()) {
    if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) {
      refuse(option, value, expected);
    }
    const auto integer = value.get<int64_t>();
    if (!in_range(option, static_cast<double>(integer))) refuse(option, value, expected);
    return integer;
  }
  if (value.is_number_float()) number = value.get<double>();
  // 1e6 is a whole number as people write it.
  if (!value.is_number_float() || number != std::floor(number) || std::abs(number) > 9e15 ||
      !in_range(option, number)) {
    refuse(option, value, expected);
  }
  return static_cast<int64_t>(number);
}

double to_float(const Option& option, const Json& value) {
  const std::string expected = "a number" + range_text(option);
  if (!value.is_number()) refuse(option, value, expected);
  const auto number = value.get<double>();
  if (!std::isfinite(number) || !in_range(option, number)) refuse(option, value, expected);
  return number;
}

std::string to_text(const Option& option, const Json& value) {
  if (!value.is_string()) refuse(option, value, "a text");
  auto text = value.get<std::string>();
  if (option.choices.empty()) return text;
  if (std::find(option.choices.begin(), option.choices.end(), text) != option.choices.end()) {
    return text;
  }
  if (option.or_file && (text.ends_with(".json") || text.find('/') != std::string::npos)) {
    return text;
  }
  refuse(option, value,
         fmt::format("one of {}{}", fmt::join(option.choices, ", "),
                     option.or_file ? ", or the path of a .json file" : ""));
}

bool to_bool(const Option& option, const Json& value) {
  if (!value.is_boolean()) refuse(option, value, "true or false");
  return value.get<bool>();
}

std::vector<std::string> to_list(const Option& option, const Json& value) {
  if (value.is_string()) return {value.get<std::string>()};
  const auto is_text = [](const Json& item) { return item.is_string(); };
  if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_text)) {
    refuse(option, value, "a text or a list of texts");
  }
  return value.get<std::vector<std::string>>();
}

Family to_family(const Option& option, const Json& value) {
  return to_text(option, value) == "gpt2" ? Family::gpt2 : Family::llama;
}

}  // namespace train_sft::option_access

namespace train_sft {

Json checked_value(const Option& option, const Json& value) {
  if (option.type == "int") return option_access::to_int(option, value);
  if (option.type == "float") return option_access::to_float(option, value);
  if (option.type == "bool") return option_access::to_bool(option, value);
  if (option.type == "list") return option_access::to_list(option, value);
  return option_access::to_text(option, value);
}

}  // namespace train_sft
