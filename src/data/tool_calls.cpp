#include "tool_calls.h"

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

// An object inside a string, as OpenAI sends arguments; anything else stays what it is.
Json arguments_of(const Json& call, const std::string& where) {
  const auto found = call.find("arguments");
  if (found == call.end() || found->is_null()) return Json::object();
  if (!found->is_string()) return *found;
  const std::string& text = found->get_ref<const std::string&>();
  try {
    Json parsed = parse_json(text, where);
    if (parsed.is_object()) return parsed;
  } catch (const DataError&) {
    // Not JSON: a plain string.
  }
  return *found;
}

}  // namespace

std::string tool_calls_text(const Json& calls, const std::string& where) {
  if (!calls.is_array()) {
    throw DataError("{}: field 'tool_calls' is {}, expected an array", where, calls.type_name());
  }
  std::string out;
  for (const Json& call : calls) {
    const bool wrapped = call.is_object() && call.contains("function");
    const Json& function = wrapped ? call["function"] : call;
    const auto name = function.is_object() ? function.find("name") : function.end();
    if (!function.is_object() || name == function.end() || !name->is_string()) {
      throw DataError(
          "{}: field 'tool_calls': expected {{\"function\": {{\"name\": …, \"arguments\": …}}}}",
          where);
    }
    if (!out.empty()) out += '\n';
    out += spaced_json({{"name", *name}, {"arguments", arguments_of(function, where)}});
  }
  return out;
}

}  // namespace train_sft
