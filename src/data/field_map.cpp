#include "field_map.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

const std::vector<std::string> kRecordFields = {
    "text",   "instruction", "input",    "output",   "system",        "history",
    "prompt", "completion",  "response", "messages", "conversations", "tools"};
const std::vector<std::string> kMessageFields = {"role",   "content",     "from",  "value",
                                                 "weight", "loss_weight", "train", "tool_calls"};

bool holds(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool begins_assignment(const std::string& text, size_t at) {
  const size_t begin = at;
  while (at < text.size() && is_name_character(text[at])) ++at;
  return at > begin && at < text.size() && text[at] == '=';
}

// First all values are taken out, then put back: names may be exchanged.
void rename(Json& object, const Assignments& map) {
  if (map.empty() || !object.is_object()) return;
  std::vector<std::pair<std::string, Json>> moved;
  for (const auto& [ours, theirs] : map) {
    const auto found = object.find(theirs);
    if (found == object.end()) continue;
    moved.emplace_back(ours, std::move(*found));
    object.erase(theirs);
  }
  for (auto& [name, value] : moved) object[name] = std::move(value);
}

}  // namespace

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

Assignments parse_assignments(const std::vector<std::string>& given, const std::string& option,
                              const std::string& example) {
  Assignments assignments;
  for (const std::string& text : given) {
    size_t begin = 0;
    while (true) {
      if (!begins_assignment(text, begin)) {
        throw UsageError("{} '{}': expected name=value, as in {}={}", option, text, option,
                         example);
      }
      size_t end = text.find(',', begin);
      while (end != std::string::npos && !begins_assignment(text, end + 1)) {
        end = text.find(',', end + 1);
      }
      const std::string one = text.substr(begin, end == std::string::npos ? end : end - begin);
      const size_t equals = one.find('=');
      assignments.emplace_back(one.substr(0, equals), one.substr(equals + 1));
      if (end == std::string::npos) break;
      begin = end + 1;
    }
  }
  return assignments;
}

FieldMap::FieldMap(const std::vector<std::string>& given) {
  for (auto& [ours, theirs] :
       parse_assignments(given, "field_map", "instruction=question,output=answer")) {
    const bool of_record = holds(kRecordFields, ours);
    if (!of_record && !holds(kMessageFields, ours)) {
      throw UsageError(
          "field_map '{}={}': no format has a field '{}'. On the left stands one of {}; of a "
          "message: {}. On the right its name in the data.",
          ours, theirs, ours, fmt::join(kRecordFields, ", "), fmt::join(kMessageFields, ", "));
    }
    if (theirs.empty()) throw UsageError("field_map '{}=': the name in the data is missing", ours);
    (of_record ? record_ : message_).emplace_back(ours, theirs);
  }
}

void FieldMap::apply(Json& record) const {
  rename(record, record_);
  if (message_.empty() || !record.is_object()) return;
  for (const char* field : {"messages", "conversations", "prompt", "completion"}) {
    const auto found = record.find(field);
    if (found == record.end() || !found->is_array()) continue;
    for (Json& message : *found) rename(message, message_);
  }
}

std::string FieldMap::describe() const {
  std::string out;
  for (const Assignments* part : {&record_, &message_}) {
    for (const auto& [ours, theirs] : *part) {
      out += (out.empty() ? "" : ", ") + ours + "=" + theirs;
    }
  }
  return out;
}

}  // namespace train_sft
