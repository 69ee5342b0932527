// One JSON record of each format to a DataRecord. Errors name `where` (file:line) and the field.
#pragma once

#include <string>

#include "records.h"
#include "train_sft/base/json.h"

namespace train_sft {

// alpaca, prompt_completion, messages, sharegpt or text by the fields of a record; "" when none
// fits.
std::string format_of(const Json& record);
DataRecord read_record(const Json& json, const std::string& format, const std::string& where);

}  // namespace train_sft
