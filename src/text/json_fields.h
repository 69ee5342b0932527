// A JSON object of a file that others wrote: fields by name and type, errors with their place.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "train_sft/base/json.h"

namespace train_sft {

// As it stands in the file, cut to what fits in a message.
std::string shortened(const MapJson& json);

class Fields {
 public:
  // `where`: "tokenizer.json", "tokenizer.json.model", … Throws DataError: not an object.
  Fields(const MapJson& json, std::string where);

  const MapJson& json() const { return json_; }
  const std::string& where() const { return where_; }
  // Whether the field is there and not null.
  bool has(std::string_view name) const;

  // Throw DataError: missing, or of another type.
  Fields object(std::string_view name) const;
  const MapJson& array(std::string_view name) const;
  std::string string(std::string_view name) const;
  int64_t integer(std::string_view name) const;

  // Missing or null: the other value. Throw DataError: of another type.
  std::string string_or(std::string_view name, std::string other) const;
  bool bool_or(std::string_view name, bool other) const;
  double number_or(std::string_view name, double other) const;

  // The field's value asks for what is not implemented.
  [[noreturn]] void refuse(std::string_view name) const;

 private:
  const MapJson* find(std::string_view name) const;
  const MapJson& at(std::string_view name) const;
  [[noreturn]] void wrong_type(std::string_view name, const char* expected) const;

  const MapJson& json_;
  std::string where_;
};

}  // namespace train_sft
