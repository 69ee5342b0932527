// JSON through nlohmann/json, with limits and errors that name the place.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace train_sft {

using Json = nlohmann::ordered_json;
// Keeps no order, and finds a member of a large object fast: for vocabularies.
using MapJson = nlohmann::json;

// Parses text. `where` names the source in errors ("file.json"); line and column are added.
// Depth is limited to 256. Throws DataError.
Json parse_json(std::string_view text, const std::string& where);
MapJson parse_map_json(std::string_view text, const std::string& where);
Json read_json_file(const std::string& path);
// Pretty-printed with two spaces and a final newline, non-UTF-8 bytes replaced.
std::string dump_json(const Json& value, int indent = 2);

// On one line, with ", " and ": " between, as Python's json.dumps(…, ensure_ascii=False) writes.
// Recursive: for values of limited depth. Non-UTF-8 bytes are replaced.
std::string spaced_json(const Json& value);

// Typed field access; throws DataError naming `where` and the field when missing or of another
// type.
std::string json_string(const Json& object, std::string_view field, const std::string& where);
int64_t json_int(const Json& object, std::string_view field, const std::string& where);
double json_number(const Json& object, std::string_view field, const std::string& where);

}  // namespace train_sft
