// The text of a data file: decompressed where it is compressed, checked to be UTF-8.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "train_sft/base/file.h"

namespace train_sft {

// gzip (RFC 1952, members one after another) and Zstandard (RFC 8878, frames one after another) are
// recognised by their first bytes. Throws DataError naming the byte or line for what is missing,
// empty, not UTF-8, damaged or cut short, for binary formats that are known (Parquet and the like)
// with the remedy, and for data that unpacks to more than 1 GiB and 200 times its size.
class TextFile {
 public:
  explicit TextFile(const std::string& path);
  // Without a byte order mark. Lives as long as this.
  std::string_view text() const { return text_; }

 private:
  std::optional<MappedFile> file_;
  std::string unpacked_;
  std::string_view text_;
};

// "chats.jsonl.gz" → "chats.jsonl": the name that says what is inside.
std::string_view without_compression_suffix(std::string_view path);
bool is_json_path(std::string_view path);        // .json, .jsonl, .ndjson, compressed or not
bool is_json_lines_path(std::string_view path);  // .jsonl, .ndjson, compressed or not

}  // namespace train_sft
