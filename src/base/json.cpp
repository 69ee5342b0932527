#include "train_sft/base/json.h"

#include <algorithm>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json_text.h"

namespace train_sft {
namespace {

std::string place(std::string_view text, size_t byte) {
  byte = std::min(byte, text.size());
  const std::string_view before = text.substr(0, byte);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t newline = before.rfind('\n');
  const size_t column = 1 + (newline == std::string_view::npos ? byte : byte - newline - 1);
  return fmt::format("{}:{}", line, column);
}

// Before anything is built.
void check_depth(std::string_view text, const std::string& where) {
  visit_brackets(text, [&](size_t i, int depth) {
    if (depth <= kDeepestJson) return true;
    throw DataError("{}:{}: JSON nested deeper than {} levels", where, place(text, i),
                    kDeepestJson);
  });
}

void check_members(std::string_view text, const std::string& where) {
  const size_t crowd = too_many_members(text);
  if (crowd == std::string_view::npos) return;
  throw DataError("{}:{}: a JSON object of more than {} members", where, place(text, crowd),
                  kMostMembers);
}

// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error …" → the end.
std::string plain_message(const std::string& what) {
  const size_t colon = what.find(": ");
  const size_t bracket = what.find("] ");
  if (colon != std::string::npos) return what.substr(colon + 2);
  return bracket != std::string::npos ? what.substr(bracket + 2) : what;
}

const Json& field_of(const Json& object, std::string_view field, const std::string& where) {
  if (!object.is_object()) {
    throw DataError("{}: expected a JSON object, found {}", where, object.type_name());
  }
  const auto found = object.find(std::string(field));
  if (found == object.end()) throw DataError("{}: no field '{}'", where, field);
  return *found;
}

void write_spaced(const Json& value, std::string& out) {
  const auto leaf = [](const Json& item) {
    return item.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  if (!value.is_structured()) {
    out += leaf(value);
    return;
  }
  const bool object = value.is_object();
  out += object ? '{' : '[';
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (!first) out += ", ";
    first = false;
    if (object) out += leaf(key) + ": ";
    write_spaced(item, out);
  }
  out += object ? '}' : ']';
}

[[noreturn]] void wrong_type(const Json& value, std::string_view field, const std::string& where,
                             const char* expected) {
  throw DataError("{}: field '{}' is {}, expected {}", where, field, value.type_name(), expected);
}

template <typename Value>
Value parse(std::string_view text, const std::string& where) {
  check_depth(text, where);
  if constexpr (std::is_same_v<Value, Json>) check_members(text, where);
  try {
    return Value::parse(text.begin(), text.end());
  } catch (const typename Value::parse_error& error) {
    const size_t byte = error.byte > 0 ? error.byte - 1 : 0;
    throw DataError("{}:{}: malformed JSON: {}", where, place(text, byte),
                    plain_message(error.what()));
  } catch (const typename Value::exception& error) {
    throw DataError("{}: malformed JSON: {}", where, plain_message(error.what()));
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  return parse<Json>(text, where);
}

MapJson parse_map_json(std::string_view text, const std::string& where) {
  return parse<MapJson>(text, where);
}

Json read_json_file(const std::string& path) {
  return parse_json(read_file(path), path);
}

size_t too_many_members(std::string_view text) {
  constexpr size_t kLeastMember = 4;  // "":0
  if (text.size() < kMostMembers * kLeastMember) return std::string_view::npos;
  std::vector<size_t> members(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      while (++i < text.size() && text[i] != '"')
        if (text[i] == '\\') ++i;
    } else if (c == '{' || c == '[') {
      members.push_back(0);
    } else if ((c == '}' || c == ']') && members.size() > 1) {
      members.pop_back();
    } else if (c == ':' && ++members.back() > kMostMembers) {
      return i;
    }
  }
  return std::string_view::npos;
}

size_t read_json_lines(std::string_view text, const std::function<bool(Json&&)>& take) {
  size_t taken = 0;
  for (size_t end; (end = text.find('\n', taken)) != std::string_view::npos; taken = end + 1) {
    const std::string_view line = text.substr(taken, end - taken);
    bool too_deep = false;
    visit_brackets(line, [&](size_t, int depth) { return !(too_deep = depth > kDeepestJson); });
    if (too_deep) break;
    Json json = Json::parse(line.begin(), line.end(), nullptr, false);
    if (!json.is_object() || !take(std::move(json))) break;
  }
  return taken;
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string spaced_json(const Json& value) {
  std::string out;
  write_spaced(value, out);
  return out;
}

std::string json_string(const Json& object, std::string_view field, const std::string& where) {
  const Json& value = field_of(object, field, where);
  if (!value.is_string()) wrong_type(value, field, where, "a string");
  return value.get<std::string>();
}

int64_t json_int(const Json& object, std::string_view field, const std::string& where) {
  const Json& value = field_of(object, field, where);
  if (!value.is_number_integer()) wrong_type(value, field, where, "an integer");
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    throw DataError("{}: field '{}' is {}, too large", where, field, value.get<uint64_t>());
  }
  return value.get<int64_t>();
}

double json_number(const Json& object, std::string_view field, const std::string& where) {
  const Json& value = field_of(object, field, where);
  if (!value.is_number()) wrong_type(value, field, where, "a number");
  return value.get<double>();
}

}  // namespace train_sft
