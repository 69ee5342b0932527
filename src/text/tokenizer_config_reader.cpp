#include "tokenizer_config_reader.h"

#include <optional>

#include "json_fields.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{64} << 20;

struct ConfigFile {
  std::string path;
  MapJson json;  // null: no such file
};

ConfigFile config_file(const std::string& directory, const char* name) {
  ConfigFile file{join_path(directory, name), nullptr};
  if (!path_exists(file.path)) return file;
  file.json = parse_map_json(read_file(file.path, kMaxConfigBytes), file.path);
  Fields(file.json, file.path);  // an object
  return file;
}

std::optional<int32_t> id_of_name(const std::string& name, const BpeDefinition& definition) {
  for (const AddedToken& token : definition.added_tokens) {
    if (token.content == name) return token.id;
  }
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    if (definition.tokens[id] == name) return static_cast<int32_t>(id);
  }
  return std::nullopt;
}

// "bos_token": "<s>" or {"content": "<s>", …}; says whether the file decides (null: none).
bool read_name(const ConfigFile& file, const std::string& field, const BpeDefinition& definition,
               int32_t& id) {
  if (!file.json.is_object() || !file.json.contains(field)) return false;
  const Fields fields(file.json, file.path);
  if (!fields.has(field)) return true;
  const std::string name =
      file.json[field].is_object() ? fields.object(field).string("content") : fields.string(field);
  const auto found = id_of_name(name, definition);
  if (!found) {
    log::warning("{}: {} '{}' is not a token; there is none then", file.path, field, name);
  }
  id = found.value_or(-1);
  return true;
}

// "eos_token_id": 2 or [2, 3], of which the first.
bool read_id(const ConfigFile& file, const std::string& field, const BpeDefinition& definition,
             int32_t& id) {
  if (!file.json.is_object()) return false;
  const Fields fields(file.json, file.path);
  if (!fields.has(field)) return false;
  const MapJson& value = file.json[field];
  const MapJson& first = value.is_array() && !value.empty() ? value[0] : value;
  const bool fits = first.is_number_integer() && first.get<int64_t>() >= 0 &&
                    first.get<uint64_t>() < definition.tokens.size();
  if (!fits) {
    throw DataError("{}: {} is {}; expected an id below {}", file.path, field, shortened(value),
                    definition.tokens.size());
  }
  id = first.get<int32_t>();
  return true;
}

}  // namespace

void read_tokenizer_config(const std::string& directory, BpeDefinition& definition) {
  const ConfigFile names[] = {config_file(directory, "tokenizer_config.json"),
                              config_file(directory, "special_tokens_map.json")};
  const ConfigFile ids[] = {config_file(directory, "generation_config.json"),
                            config_file(directory, "config.json")};
  const std::pair<std::string, int32_t*> wanted[] = {{"bos_token", &definition.bos_id},
                                                     {"eos_token", &definition.eos_id},
                                                     {"pad_token", &definition.pad_id}};
  for (const auto& [field, id] : wanted) {
    if (read_name(names[0], field, definition, *id) || read_name(names[1], field, definition, *id))
      continue;
    if (!read_id(ids[0], field + "_id", definition, *id)) {
      read_id(ids[1], field + "_id", definition, *id);
    }
  }
}

}  // namespace train_sft
