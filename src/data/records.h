// Files to records: documents and conversations, before any tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train_sft/config/train_config.h"
#include "train_sft/text/chat_template.h"

namespace train_sft {

struct Record {
  bool is_document = false;
  std::string document;
  Conversation conversation;
  bool ends = true;  // false: a document cut off by a split, no end-of-text token
  size_t line = 1;   // where it begins in its file
  uint64_t id = 0;   // number over all files
  uint64_t content_hash = 0;
};

struct Source {
  std::string path;
  double weight = 1.0;
  std::string format;
  bool plain_text = false;  // a .txt file: one document
  std::vector<Record> records;
};

// "file.json*2.5" → path and weight.
Source parse_source(const std::string& spec);

using DataVars = std::vector<std::pair<std::string, std::string>>;
// Several may stand in one text, separated by commas: "name=NanoBot,author=me".
DataVars parse_data_vars(const std::vector<std::string>& assignments);
// Replaces {{name}} by its value; names without one are added to `unknown` and stay.
std::string with_vars(const std::string& text, const DataVars& vars,
                      std::vector<std::string>& unknown);

// One warning a name, with how often it occurs.
void warn_of_placeholders(const std::vector<std::string>& unknown);

// Reads a file into source.records; record ids begin at first_id. Placeholders without a value are
// added to `unknown_vars`.
void read_source(Source& source, const TrainConfig& config, const DataVars& vars, uint64_t first_id,
                 std::vector<std::string>& unknown_vars);

uint64_t content_hash(const Record& record);

}  // namespace train_sft
