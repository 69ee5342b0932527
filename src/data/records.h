// Files to records: documents and conversations, before any tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "field_map.h"
#include "json_records.h"
#include "train_sft/config/train_config.h"
#include "train_sft/data/dataset.h"
#include "train_sft/text/chat_template.h"

namespace train_sft {

struct DataRecord {
  bool is_document = false;
  std::string document;
  Conversation conversation;
  size_t line = 1;  // where it begins in its file
  uint64_t content_hash = 0;
};

struct Source {
  std::string path;
  double weight = 1.0;
  std::string format;
  std::vector<DataRecord> records;
  Placeholders unknown_vars;
};

// "file.json*2.5" → path and weight.
Source parse_source(const std::string& spec);

using DataVars = std::vector<std::pair<std::string, std::string>>;
// Several may stand in one text, separated by commas: "name=NanoBot,author=me".
DataVars parse_data_vars(const std::vector<std::string>& assignments);
// Replaces {{name}} by its value; names without one are counted and stay.
std::string with_vars(const std::string& text, const DataVars& vars, Placeholders& unknown);

// One warning a name, with how often it occurs.
void warn_of_placeholders(const Placeholders& unknown);

// The format of the first record in a text. Throws DataError when it is none that is known.
std::string detect_in_text(std::string_view text, const std::string& path, const FieldMap& fields);

// How the records of all files are read.
struct ReadSettings {
  explicit ReadSettings(const TrainConfig& config);
  FieldMap fields;
  DataVars vars;
};

// One record of a source, in its format. Placeholders without a value are counted.
DataRecord make_record(const JsonRecord& text, const Source& source, const ReadSettings& settings,
                       Placeholders& unknown);

// Reads a .json file (or JSON lines) into source.records, in memory.
void read_source(Source& source, const TrainConfig& config);

uint64_t content_hash(const DataRecord& record);

}  // namespace train_sft
