// Tool calls of OpenAI messages as text.
#pragma once

#include <string>

#include "train_sft/base/json.h"

namespace train_sft {

// {"name": "…", "arguments": {…}}, one call a line, keys and values in the order given, written as
// Python's json.dumps(…, ensure_ascii=False) does. `arguments` that are a string holding a JSON
// object are taken as that object. Calls have the form {"function": {"name", "arguments"}} or
// {"name", "arguments"}. Throws DataError naming `where`.
std::string tool_calls_text(const Json& calls, const std::string& where);

}  // namespace train_sft
