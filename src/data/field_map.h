// Names of fields in somebody's data, read as the names the formats know.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "train_sft/base/json.h"

namespace train_sft {

bool is_name_character(char c);  // letters, digits and _

// "name=value" assignments; several may stand in one, separated by commas: a comma begins the next
// one where a name and '=' follow it. Throws UsageError naming `option`.
using Assignments = std::vector<std::pair<std::string, std::string>>;
Assignments parse_assignments(const std::vector<std::string>& given, const std::string& option,
                              const std::string& example);

class FieldMap {
 public:
  FieldMap() = default;
  // "instruction=question": the field instruction is called question in the data. Throws UsageError
  // for names that no format knows.
  explicit FieldMap(const std::vector<std::string>& given);

  bool empty() const { return record_.empty() && message_.empty(); }
  // Renames the fields of a record, and of each message in it.
  void apply(Json& record) const;
  std::string describe() const;  // "instruction=question, output=answer"

 private:
  Assignments record_;   // fields of a record
  Assignments message_;  // fields of a message
};

}  // namespace train_sft
