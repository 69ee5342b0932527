// What Jinja's operators, filters, tests and methods do to values.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jinja.h"

namespace train_sft::jinja {

struct Arguments {
  std::vector<Json> values;
  std::vector<std::pair<std::string, Json>> named;
  // The i-th value or the one named so; undefined when neither is there.
  Json get(size_t i, std::string_view name) const;
};

bool is_true(const Json& value);
std::string printed(const Json& value);  // as {{ value }} shows it
bool equal(const Json& a, const Json& b);
Json binary(const std::string& symbol, const Json& a, const Json& b);
Json filtered(const std::string& filter, const Json& value, const Arguments& arguments);
bool tested(const std::string& test, const Json& value, const Arguments& arguments);
Json method(const Json& object, const std::string& name, const Arguments& arguments);
Json item_of(const Json& object, const Json& key);
Json slice_of(const Json& object, const Json& from, const Json& to, const Json& step);

}  // namespace train_sft::jinja
