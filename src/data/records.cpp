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

std::string detect_in_text(std::string_view text, const std::string& path,
                           const FieldMap& fields_of) {
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

void warn_of_placeholders(const Placeholders& unknown) {
  for (const auto& [name, count] : unknown) {
    log::warning("the data has {} placeholders {{{{{}}}}}, left as they are: give --data_vars {}=…",
                 count, name, name);
  }
}

std::string with_vars(const std::string& text, const DataVars& vars, Placeholders& unknown) {
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
      if (!name.empty()) ++unknown[std::string(name)];
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

uint64_t content_hash(const DataRecord& record) {
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

DataRecord mapped_record(Json json, const FieldMap& fields, const std::string& format,
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

ReadSettings::ReadSettings(const TrainConfig& config)
    : fields(config.field_map), vars(parse_data_vars(config.data_vars)) {}

DataRecord make_record(const JsonRecord& text, const Source& source, const ReadSettings& settings,
                       Placeholders& unknown) {
  const std::string where = fmt::format("{}:{}", source.path, text.line);
  DataRecord record =
      mapped_record(parse_record(text, source.path), settings.fields, source.format, where);
  for (Message& message : record.conversation.messages) {
    message.content = with_vars(message.content, settings.vars, unknown);
    message.input = with_vars(message.input, settings.vars, unknown);
  }
  record.line = text.line;
  record.content_hash = content_hash(record);
  return record;
}

void read_source(Source& source, const TrainConfig& config) {
  const TextFile file(source.path);
  const std::vector<JsonRecord> texts = json_records(file.text(), source.path);
  if (texts.empty()) throw DataError("{}: holds no records", source.path);
  source.records.resize(texts.size());
  const ReadSettings settings(config);
  std::mutex mutex;
  const auto read_one = [&](size_t i) {
    Placeholders unknown;
    source.records[i] = make_record(texts[i], source, settings, unknown);
    if (unknown.empty()) return;
    const std::lock_guard lock(mutex);
    for (const auto& [name, count] : unknown) source.unknown_vars[name] += count;
  };
  parallel_for(
      texts.size(), resolve_threads(config.threads), "reading",
      [&](size_t i) { return texts[i].text.size(); }, read_one);
}

bool is_conversation_format(const std::string& format) {
  return format != "text";
}

}  // namespace train_sft
