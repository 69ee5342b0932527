#include "records.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>

#include "field_map.h"
#include "formats.h"
#include "json_records.h"
#include "parallel.h"
#include "text_file.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/rng.h"
#include "train_sft/data/dataset.h"

namespace train_sft {
namespace {

std::string detect(std::string_view text, const std::string& path, const FieldMap& fields_of) {
  const std::vector<JsonRecord> first = json_records(text, path, 1);
  if (first.empty()) throw DataError("{}: holds no records", path);
  Json record = parse_record(first[0], path);
  fields_of.apply(record);
  const std::string format = format_of(record);
  if (!format.empty()) return format;
  std::string fields;
  if (record.is_object()) {
    for (const auto& [name, value] : record.items()) fields += (fields.empty() ? "" : ", ") + name;
  }
  throw DataError(
      "{}:{}: no known format has these fields: {}. Known are text; instruction, output; prompt, "
      "completion; messages; conversations. --field_map instruction=NAME,output=NAME says what "
      "they are called here.",
      path, first[0].line, fields.empty() ? record.type_name() : fields);
}

// Line ends of Windows become newlines in plain text; inside JSON strings nothing is changed.
std::string with_plain_newlines(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out += text[i];
  }
  return out;
}

// The name in "{{ name }}" at `at`, and where the placeholder ends; empty when it is none.
std::string_view placeholder(std::string_view text, size_t at, size_t& end) {
  size_t begin = at + 2;
  while (begin < text.size() && text[begin] == ' ') ++begin;
  size_t stop = begin;
  while (stop < text.size() && is_name_character(text[stop])) ++stop;
  end = stop;
  while (end < text.size() && text[end] == ' ') ++end;
  if (!text.substr(end).starts_with("}}")) return {};
  end += 2;
  return text.substr(begin, stop - begin);
}

void append_hashed(std::string& key, std::string_view part) {
  key += std::to_string(part.size());
  key += ':';
  key += part;
}

}  // namespace

Source parse_source(const std::string& spec) {
  Source source;
  source.path = spec;
  const size_t star = spec.rfind('*');
  if (star == std::string::npos || star + 1 == spec.size()) return source;
  const char* end = spec.data() + spec.size();
  const auto [parsed, error] = std::from_chars(spec.data() + star + 1, end, source.weight);
  if (error != std::errc() || parsed != end) {
    source.weight = 1.0;
    return source;
  }
  if (!(source.weight > 0.0) || source.weight > 1000.0) {
    throw UsageError("data '{}': the weight after '*' must be above 0 and at most 1000", spec);
  }
  source.path = spec.substr(0, star);
  return source;
}

DataVars parse_data_vars(const std::vector<std::string>& assignments) {
  return parse_assignments(assignments, "data_vars", "author=Ada");
}

void warn_of_placeholders(const std::vector<std::string>& unknown) {
  std::map<std::string, size_t> counts;
  for (const std::string& name : unknown) ++counts[name];
  for (const auto& [name, count] : counts) {
    log::warning("the data has {} placeholders {{{{{}}}}}, left as they are: give --data_vars {}=…",
                 count, name, name);
  }
}

std::string with_vars(const std::string& text, const DataVars& vars,
                      std::vector<std::string>& unknown) {
  size_t at = text.find("{{");
  if (at == std::string::npos) return text;
  std::string out;
  size_t begin = 0;
  for (; at != std::string::npos; at = text.find("{{", at)) {
    size_t end = 0;
    const std::string_view name = placeholder(text, at, end);
    const auto var = std::find_if(vars.begin(), vars.end(),
                                  [&](const auto& candidate) { return candidate.first == name; });
    if (name.empty() || var == vars.end()) {
      if (!name.empty()) unknown.emplace_back(name);
      at += 2;
      continue;
    }
    out.append(text, begin, at - begin);
    out += var->second;
    begin = at = end;
  }
  out.append(text, begin);
  return out;
}

uint64_t content_hash(const Record& record) {
  if (record.is_document) return hash_string(record.document);
  std::string key;
  for (const Message& message : record.conversation.messages) {
    key += static_cast<char>('a' + static_cast<int>(message.role));
    append_hashed(key, message.content);
    append_hashed(key, message.input);
    append_hashed(key, fmt::format("{}", message.weight));
  }
  return hash_string(key);
}

namespace {

Record mapped_record(Json json, const FieldMap& fields, const std::string& format,
                     const std::string& where) {
  if (fields.empty()) return read_record(json, format, where);
  fields.apply(json);
  try {
    return read_record(json, format, where);
  } catch (const DataError& error) {
    throw DataError("{} (with field_map {})", error.what(), fields.describe());
  }
}

}  // namespace

void read_source(Source& source, const TrainConfig& config, const DataVars& vars, uint64_t first_id,
                 std::vector<std::string>& unknown_vars) {
  const TextFile file(source.path);
  const bool json = is_json_path(source.path);
  source.format = config.data_format;
  const FieldMap fields(config.field_map);
  if (source.format == "auto") {
    source.format = json ? detect(file.text(), source.path, fields) : "text";
  }
  if (!json) {
    if (source.format != "text") {
      throw UsageError("data_format '{}' needs a .json or .jsonl file; {} is read as plain text",
                       source.format, source.path);
    }
    source.plain_text = true;
    Record record;
    record.is_document = true;
    record.document = with_plain_newlines(file.text());
    record.id = first_id;
    record.content_hash = content_hash(record);
    source.records.push_back(std::move(record));
    return;
  }
  const std::vector<JsonRecord> texts = json_records(file.text(), source.path);
  if (texts.empty()) throw DataError("{}: holds no records", source.path);
  source.records.resize(texts.size());
  std::mutex mutex;
  const auto read_one = [&](size_t i) {
    const std::string where = fmt::format("{}:{}", source.path, texts[i].line);
    Record record =
        mapped_record(parse_record(texts[i], source.path), fields, source.format, where);
    std::vector<std::string> unknown;
    for (Message& message : record.conversation.messages) {
      message.content = with_vars(message.content, vars, unknown);
      message.input = with_vars(message.input, vars, unknown);
    }
    record.line = texts[i].line;
    record.id = first_id + i;
    record.content_hash = content_hash(record);
    source.records[i] = std::move(record);
    if (unknown.empty()) return;
    const std::lock_guard lock(mutex);
    unknown_vars.insert(unknown_vars.end(), unknown.begin(), unknown.end());
  };
  parallel_for(
      texts.size(), resolve_threads(config.threads), "reading",
      [&](size_t i) { return texts[i].text.size(); }, read_one);
}

std::string detect_format(const std::string& path) {
  const std::string file = parse_source(path).path;
  if (!is_json_path(file)) return "text";
  return detect(TextFile(file).text(), file, FieldMap());
}

bool is_conversation_format(const std::string& format) {
  return format != "text";
}

}  // namespace train_sft
