#include "json_fields.h"

#include <utility>

#include "train_sft/base/error.h"
#include "train_sft/base/utf8.h"

namespace train_sft {

std::string shortened(const MapJson& json) {
  constexpr size_t kCharacters = 80;
  const std::string text = json.dump(-1, ' ', false, MapJson::error_handler_t::replace);
  const size_t end = character_offset(text, kCharacters);
  return end < text.size() ? text.substr(0, end) + "…" : text;
}

Fields::Fields(const MapJson& json, std::string where) : json_(json), where_(std::move(where)) {
  if (!json_.is_object()) {
    throw DataError("{}: expected a JSON object, found {}", where_, shortened(json_));
  }
}

const MapJson* Fields::find(std::string_view name) const {
  const auto found = json_.find(std::string(name));
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

const MapJson& Fields::at(std::string_view name) const {
  const MapJson* found = find(name);
  if (found == nullptr) throw DataError("{}: no field '{}'", where_, name);
  return *found;
}

void Fields::wrong_type(std::string_view name, const char* expected) const {
  throw DataError("{}: field '{}' is {}, expected {}", where_, name, shortened(at(name)), expected);
}

void Fields::refuse(std::string_view name) const {
  throw DataError("{}: {} = {} is not implemented", where_, name, shortened(at(name)));
}

bool Fields::has(std::string_view name) const {
  return find(name) != nullptr;
}

Fields Fields::object(std::string_view name) const {
  return {at(name), fmt::format("{}.{}", where_, name)};
}

const MapJson& Fields::array(std::string_view name) const {
  if (!at(name).is_array()) wrong_type(name, "an array");
  return at(name);
}

std::string Fields::string(std::string_view name) const {
  if (!at(name).is_string()) wrong_type(name, "a string");
  return at(name).get<std::string>();
}

int64_t Fields::integer(std::string_view name) const {
  const MapJson& value = at(name);
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX});
  if (!fits) wrong_type(name, "a whole number");
  return value.get<int64_t>();
}

std::string Fields::string_or(std::string_view name, std::string other) const {
  return has(name) ? string(name) : std::move(other);
}

bool Fields::bool_or(std::string_view name, bool other) const {
  if (!has(name)) return other;
  if (!at(name).is_boolean()) wrong_type(name, "true or false");
  return at(name).get<bool>();
}

double Fields::number_or(std::string_view name, double other) const {
  if (!has(name)) return other;
  if (!at(name).is_number()) wrong_type(name, "a number");
  return at(name).get<double>();
}

}  // namespace train_sft
