// How a row of the option table reads and writes its field of TrainConfig: one template a type,
// instantiated with the path of member pointers to the field.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "train_sft/config/options.h"

namespace train_sft::option_access {

template <auto First, auto... Rest, typename Object>
auto& field(Object& object) {
  if constexpr (sizeof...(Rest) == 0) {
    return object.*First;
  } else {
    return field<Rest...>(object.*First);
  }
}

template <typename T>
struct Unwrapped {
  using type = T;
};
template <typename T>
struct Unwrapped<std::optional<T>> {
  using type = T;
};

// Checked conversions; each throws UsageError naming option, value and what was expected.
int64_t to_int(const Option& option, const Json& value);
double to_float(const Option& option, const Json& value);
std::string to_text(const Option& option, const Json& value);
bool to_bool(const Option& option, const Json& value);
std::vector<std::string> to_list(const Option& option, const Json& value);
Family to_family(const Option& option, const Json& value);

template <typename T>
T convert(const Option& option, const Json& value) {
  if constexpr (std::is_same_v<T, int64_t>) {
    return to_int(option, value);
  } else if constexpr (std::is_same_v<T, double>) {
    return to_float(option, value);
  } else if constexpr (std::is_same_v<T, bool>) {
    return to_bool(option, value);
  } else if constexpr (std::is_same_v<T, Family>) {
    return to_family(option, value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    return to_text(option, value);
  } else {
    static_assert(std::is_same_v<T, std::vector<std::string>>);
    return to_list(option, value);
  }
}

template <typename T>
Json as_json(const T& value) {
  if constexpr (std::is_same_v<T, Family>) {
    return value == Family::gpt2 ? "gpt2" : "llama";
  } else {
    return value;
  }
}
template <typename T>
Json as_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

template <typename T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, int64_t>) return "int";
  if constexpr (std::is_same_v<T, double>) return "float";
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "list";
  return "string";
}

template <auto... Path>
void set(TrainConfig& config, const Option& option, const Json& value) {
  auto& target = field<Path...>(config);
  using Field = std::remove_reference_t<decltype(target)>;
  // null stands for "derive it", as describe() and config.json write it.
  if constexpr (!std::is_same_v<Field, typename Unwrapped<Field>::type>) {
    if (value.is_null()) {
      target.reset();
      return;
    }
  }
  target = convert<typename Unwrapped<Field>::type>(option, value);
}

template <auto... Path>
Json get(const TrainConfig& config) {
  return as_json(field<Path...>(config));
}

}  // namespace train_sft::option_access
