// The text of a data file: decompressed where it is compressed, checked to be UTF-8.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "train_sft/base/file.h"

namespace train_sft {

inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
inline constexpr std::string_view kBlank = " \t\r\n";

// The whole of it, in memory (mapped, unless it is compressed: data_reader.h). Throws DataError
// naming the byte or line for what is missing, empty, not UTF-8, damaged or cut short, and for
// binary formats that are known (Parquet and the like) with the remedy.
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

// Throws DataError unless path is a file that is not empty.
void require_data_file(const std::string& path);

// Throws DataError for a byte that no UTF-8 has, with the remedy: by the file's first bytes it may
// be a known binary format.
[[noreturn]] void refuse_invalid_utf8(const std::string& path, std::string_view beginning,
                                      uint64_t line, uint64_t at, unsigned char byte);
// A Parquet file may be all ASCII.
void refuse_parquet(const std::string& path, std::string_view beginning, std::string_view end);

// "chats.jsonl.gz" → "chats.jsonl": the name that says what is inside.
std::string_view without_compression_suffix(std::string_view path);
bool is_json_path(std::string_view path);        // .json, .jsonl, .ndjson, compressed or not
bool is_json_lines_path(std::string_view path);  // .jsonl, .ndjson, compressed or not

}  // namespace train_sft
