// The records of a .json or .jsonl file, each with the line on which it begins.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "train_sft/base/json.h"

namespace train_sft {

inline constexpr size_t kLongestRecord = size_t{256} << 20;  // bytes

struct JsonRecord {
  std::string_view text;
  size_t line = 1;
};

// A top-level array's elements; else one value a line (or, where a value goes over several lines
// and the file is not named .jsonl, values one after another). `most`: stop after so many. Throws
// DataError with file:line for what cannot be cut into records.
std::vector<JsonRecord> json_records(std::string_view text, const std::string& path,
                                     size_t most = static_cast<size_t>(-1));

// One value a line, whatever the values are; first_line is the number of the text's first.
std::vector<JsonRecord> json_lines(std::string_view text, size_t first_line);

// Parses one record. Throws DataError with the line in the file.
Json parse_record(const JsonRecord& record, const std::string& path);

}  // namespace train_sft
