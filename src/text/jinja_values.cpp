#include "jinja_values.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "strip.h"
#include "train_sft/base/utf8.h"

namespace train_sft::jinja {
namespace {

[[noreturn]] void unsupported(const std::string& what) {
  throw DataError("chat template: {} is not supported", what);
}

constexpr size_t kLongestText = size_t{1} << 18;

void check_length(const std::string& text) {
  if (text.size() > kLongestText) throw DataError("chat template: makes texts without bound");
}

const std::string& text_of(const Json& value, const char* what) {
  if (!value.is_string()) throw Raised("chat template: {} of something that is no text", what);
  return value.get_ref<const std::string&>();
}

// Where a text is found, in time that grows with the two lengths and not with their product.
size_t find_in(const std::string& text, const std::string& part, size_t from = 0) {
  if (from > text.size()) return std::string::npos;
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? std::string::npos
                          : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

Json ordered(const std::string& symbol, const Json& a, const Json& b) {
  const bool comparable = (a.is_number() && b.is_number()) || (a.is_string() && b.is_string());
  if (!comparable) throw Raised("chat template: values that cannot be compared");
  if (symbol == "<") return a < b;
  if (symbol == ">") return a > b;
  return symbol == "<=" ? a <= b : a >= b;
}

bool contains(const Json& container, const Json& value) {
  if (container.is_string())
    return find_in(container.get_ref<const std::string&>(), text_of(value, "'in'")) !=
           std::string::npos;
  if (container.is_object())
    return value.is_string() && container.contains(value.get_ref<const std::string&>());
  if (!container.is_array()) throw Raised("chat template: 'in' something that holds nothing");
  return std::any_of(container.begin(), container.end(),
                     [&](const Json& item) { return equal(item, value); });
}

Json arithmetic(const std::string& symbol, const Json& a, const Json& b) {
  if (!a.is_number() || !b.is_number())
    throw Raised("chat template: '{}' of what is no number", symbol);
  if (!a.is_number_integer() || !b.is_number_integer()) unsupported("arithmetic with fractions");
  const auto x = a.get<int64_t>();
  const auto y = b.get<int64_t>();
  constexpr int64_t kLimit = int64_t{1} << 31;  // far below any overflow
  if (std::abs(x) > kLimit || std::abs(y) > kLimit) unsupported("arithmetic with large numbers");
  if (symbol == "+") return x + y;
  if (symbol == "-") return x - y;
  if (symbol == "*") return x * y;
  if (symbol == "/") unsupported("'/'");
  if (y == 0) throw Raised("chat template: division by zero");
  const int64_t quotient = x / y - ((x % y != 0 && (x < 0) != (y < 0)) ? 1 : 0);
  return symbol == "//" ? quotient : x - quotient * y;
}

Json added(const Json& a, const Json& b) {
  if (a.is_string() && b.is_string()) return a.get<std::string>() + b.get<std::string>();
  if (a.is_array() && b.is_array()) {
    Json out = a;
    out.insert(out.end(), b.begin(), b.end());
    return out;
  }
  return arithmetic("+", a, b);
}

Json pairs_of(const Json& object) {
  if (!object.is_object()) throw Raised("chat template: items of something that has none");
  Json out = Json::array();
  for (const auto& [key, value] : object.items()) out.push_back(Json::array({key, value}));
  return out;
}

Json replaced(const std::string& text, const Json& what, const Json& with) {
  const std::string& old = text_of(what, "replace");
  const std::string& fresh = text_of(with, "replace");
  if (old.empty()) unsupported("replacing the empty text");
  std::string out;
  size_t begin = 0;
  for (size_t at = find_in(text, old); at != std::string::npos; at = find_in(text, old, begin)) {
    out.append(text, begin, at - begin).append(fresh);
    check_length(out);
    begin = at + old.size();
  }
  return out.append(text, begin);
}

Json split(const std::string& text, const Json& separator) {
  if (is_undefined(separator)) unsupported("split() without a separator");
  const std::string& by = text_of(separator, "split");
  if (by.empty()) throw Raised("chat template: split by the empty text");
  Json out = Json::array();
  size_t begin = 0;
  for (size_t at = find_in(text, by); at != std::string::npos; at = find_in(text, by, begin)) {
    out.push_back(text.substr(begin, at - begin));
    begin = at + by.size();
  }
  out.push_back(text.substr(begin));
  return out;
}

std::string in_case(std::string text, bool upper) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) unsupported("upper or lower case beyond ASCII");
    const bool changes = upper ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z';
    if (changes) c = static_cast<char>(c ^ 0x20);
  }
  return text;
}

Json joined(const Json& list, const Json& separator) {
  if (!list.is_array()) unsupported("join of what is no list");
  const std::string by = is_undefined(separator) ? "" : text_of(separator, "join");
  std::string out;
  for (size_t i = 0; i < list.size(); ++i) {
    out += (i > 0 ? by : "") + printed(list[i]);
    check_length(out);
  }
  return out;
}

Json length_of(const Json& value) {
  if (value.is_array() || value.is_object()) return value.size();
  return count_characters(text_of(value, "the length"));
}

Json text_method(const std::string& text, const std::string& name, const Arguments& arguments) {
  const Json first = arguments.get(0, "");
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const std::string_view characters =
        is_undefined(first) ? std::string_view() : std::string_view(text_of(first, "strip"));
    return std::string(stripped(text, characters, name != "rstrip", name != "lstrip"));
  }
  if (name == "startswith") return text.starts_with(text_of(first, "startswith"));
  if (name == "endswith") return text.ends_with(text_of(first, "endswith"));
  if (name == "split" && arguments.values.size() < 2) return split(text, first);
  if (name == "replace") return replaced(text, first, arguments.get(1, ""));
  if (name == "upper" || name == "lower") return in_case(text, name == "upper");
  unsupported(fmt::format("the method '{}' of a text", name));
}

}  // namespace

Json Arguments::get(size_t i, std::string_view name) const {
  if (i < values.size()) return values[i];
  for (const auto& [key, value] : named) {
    if (key == name) return value;
  }
  return undefined();
}

bool is_true(const Json& value) {
  if (is_undefined(value) || value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0.0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

std::string printed(const Json& value) {
  if (is_undefined(value)) return {};
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_number_integer()) return value.dump();
  unsupported("printing a list, a mapping or a fraction");
}

bool equal(const Json& a, const Json& b) {
  if (is_undefined(a) || is_undefined(b)) return is_undefined(a) && is_undefined(b);
  return a == b;
}

Json binary(const std::string& symbol, const Json& a, const Json& b) {
  if (symbol == "==") return equal(a, b);
  if (symbol == "!=") return !equal(a, b);
  if (symbol == "~") return printed(a) + printed(b);
  if (is_undefined(a) || is_undefined(b))
    throw Raised("chat template: '{}' of something undefined", symbol);
  if (symbol == "in") return contains(b, a);
  if (symbol == "not in") return !contains(b, a);
  if (symbol[0] == '<' || symbol[0] == '>') return ordered(symbol, a, b);
  return symbol == "+" ? added(a, b) : arithmetic(symbol, a, b);
}

Json filtered(const std::string& filter, const Json& value, const Arguments& arguments) {
  if (filter == "default" || filter == "d") {
    const bool wanted =
        is_undefined(value) || (is_true(arguments.get(1, "boolean")) && !is_true(value));
    return wanted ? arguments.get(0, "default_value") : value;
  }
  if (filter == "trim") return std::string(stripped(printed(value), {}, true, true));
  if (filter == "length" || filter == "count")
    return is_undefined(value) ? Json(0) : length_of(value);
  if (filter == "string") return printed(value);
  if (filter == "list" && value.is_array()) return value;
  if (filter == "items") return is_undefined(value) ? Json::array() : pairs_of(value);
  if (filter == "join") return joined(value, arguments.get(0, "d"));
  if (filter == "upper" || filter == "lower") return in_case(printed(value), filter == "upper");
  if (filter == "replace")
    return replaced(printed(value), arguments.get(0, "old"), arguments.get(1, "new"));
  if (filter == "first" || filter == "last") {
    if (!value.is_array()) unsupported(fmt::format("'{}' of what is no list", filter));
    if (value.empty()) return undefined();
    return filter == "first" ? value.front() : value.back();
  }
  if (filter == "tojson") {
    if (is_undefined(value)) throw Raised("chat template: tojson of something undefined");
    const Json indent = arguments.get(0, "indent");
    return indent.is_number_integer() && is_true(indent)
               ? value.dump(std::clamp(indent.get<int>(), 0, 16), ' ', false,
                            Json::error_handler_t::replace)
               : spaced_json(value);
  }
  unsupported(fmt::format("the filter '{}'", filter));
}

bool tested(const std::string& test, const Json& value, const Arguments& arguments) {
  if (test == "defined") return !is_undefined(value);
  if (test == "undefined") return is_undefined(value);
  if (test == "none") return value.is_null();
  if (test == "string") return value.is_string();
  if (test == "mapping") return value.is_object();
  if (test == "sequence" || test == "iterable")
    return value.is_string() || value.is_array() || value.is_object();
  if (test == "number") return value.is_number() || value.is_boolean();
  if (test == "integer") return value.is_number_integer();
  if (test == "boolean") return value.is_boolean();
  if (test == "true") return value.is_boolean() && value.get<bool>();
  if (test == "false") return value.is_boolean() && !value.get<bool>();
  if (test == "equalto" || test == "eq") return equal(value, arguments.get(0, ""));
  if (test == "in") return contains(arguments.get(0, ""), value);
  if (test == "odd" || test == "even") return (arithmetic("%", value, 2) == 1) == (test == "odd");
  if (test == "divisibleby") return arithmetic("%", value, arguments.get(0, "")) == 0;
  unsupported(fmt::format("the test '{}'", test));
}

Json method(const Json& object, const std::string& name, const Arguments& arguments) {
  if (object.is_string()) return text_method(object.get_ref<const std::string&>(), name, arguments);
  if (object.is_object()) {
    if (name == "items") return pairs_of(object);
    if (name == "get") {
      const Json key = arguments.get(0, "");
      const auto found =
          key.is_string() ? object.find(key.get_ref<const std::string&>()) : object.end();
      if (found != object.end()) return *found;
      return is_undefined(arguments.get(1, "")) ? Json(nullptr) : arguments.get(1, "");
    }
    if (name == "keys" || name == "values") {
      Json out = Json::array();
      for (const auto& [key, value] : object.items())
        out.push_back(name == "keys" ? Json(key) : value);
      return out;
    }
  }
  if (is_undefined(object)) throw Raised("chat template: a method of something undefined");
  unsupported(fmt::format("the method '{}'", name));
}

Json item_of(const Json& object, const Json& key) {
  if (is_undefined(object)) throw Raised("chat template: a field of something undefined");
  if (object.is_object() && key.is_string()) {
    const auto found = object.find(key.get_ref<const std::string&>());
    return found == object.end() ? undefined() : *found;
  }
  if (object.is_array() && key.is_number_integer()) {
    const auto size = static_cast<int64_t>(object.size());
    int64_t i = key.get<int64_t>();
    if (i < 0) i += size;
    return i < 0 || i >= size ? undefined() : object[static_cast<size_t>(i)];
  }
  if (object.is_string() && key.is_number_integer()) unsupported("a character of a text");
  if (object.is_array() && key.is_string()) unsupported("an attribute of a list");
  return undefined();
}

Json slice_of(const Json& object, const Json& from, const Json& to, const Json& step) {
  if (!object.is_array()) unsupported("a slice of what is no list");
  const auto size = static_cast<int64_t>(object.size());
  const auto bound = [&](const Json& value, int64_t when_absent) {
    if (is_undefined(value) || value.is_null()) return when_absent;
    if (!value.is_number_integer()) throw Raised("chat template: a slice needs whole numbers");
    const auto i = value.get<int64_t>();
    return std::clamp<int64_t>(i < 0 ? i + size : i, 0, size);
  };
  Json out = Json::array();
  const bool backwards = step.is_number_integer() && step.get<int64_t>() == -1;
  if (backwards) {
    if (!is_undefined(from) || !is_undefined(to)) unsupported("a part of a list backwards");
    for (int64_t i = size; i-- > 0;) out.push_back(object[static_cast<size_t>(i)]);
    return out;
  }
  if (!is_undefined(step) && step != 1) unsupported("a slice with steps");
  const int64_t end = bound(to, size);
  for (int64_t i = bound(from, 0); i < end; ++i) out.push_back(object[static_cast<size_t>(i)]);
  return out;
}

}  // namespace train_sft::jinja
