#include "text_file.h"

#include <algorithm>
#include <array>
#include <span>

#include "data_reader.h"
#include "train_sft/base/error.h"
#include "train_sft/base/utf8.h"

namespace train_sft {
namespace {

constexpr std::string_view kParquet = "PAR1";
constexpr const char* kConvert = "Convert it: python scripts/to_jsonl.py FILE -o FILE.jsonl";

std::string unpacked(const std::string& path) {
  DataReader reader(path);
  std::string text;
  constexpr size_t kBlock = size_t{1} << 20;
  size_t filled = 0;
  do {
    text.resize(filled + kBlock);
    const size_t count =
        reader.read(std::as_writable_bytes(std::span(text)).subspan(filled, kBlock));
    filled += count;
    text.resize(filled);
  } while (filled > 0 && filled % kBlock == 0);
  return text;
}

void check_utf8(std::string_view text, const std::string& path) {
  const auto invalid = find_invalid_utf8(text);
  if (!invalid) return;
  const auto lines = std::count(text.begin(), text.begin() + static_cast<long>(*invalid), '\n');
  refuse_invalid_utf8(path, text, static_cast<uint64_t>(lines) + 1, *invalid,
                      static_cast<unsigned char>(text[*invalid]));
}

}  // namespace

void refuse_invalid_utf8(const std::string& path, std::string_view beginning, uint64_t line,
                         uint64_t at, unsigned char byte) {
  struct Kind {
    std::string_view magic;
    const char* name;
    const char* remedy;
  };
  constexpr const char* kUnpack = "Unpack it first";
  constexpr const char* kIconv = "Convert it: iconv -f utf-16 -t utf-8";
  const std::array<Kind, 8> kinds{{{kParquet, "a Parquet file", kConvert},
                                   {"ARROW1", "an Arrow file", kConvert},
                                   {{"PK\x03\x04", 4}, "a zip archive", kUnpack},
                                   {{"\xFD"
                                     "7zXZ\0",
                                     6},
                                    "xz-compressed (gzip and zstd are read)",
                                    kUnpack},
                                   {"BZh", "bzip2-compressed (gzip and zstd are read)", kUnpack},
                                   {{"\x89HDF", 4}, "an HDF5 file", "Convert it to .jsonl"},
                                   {"\xFF\xFE", "UTF-16 text", kIconv},
                                   {"\xFE\xFF", "UTF-16 text", kIconv}}};
  for (const Kind& kind : kinds) {
    if (beginning.starts_with(kind.magic)) {
      throw DataError("{}: is {}, not text. {}.", path, kind.name, kind.remedy);
    }
  }
  throw DataError(
      "{}:{}: not UTF-8: invalid byte 0x{:02X} at byte {}. Convert the file, for "
      "example with `iconv -f latin1 -t utf-8`.",
      path, line, byte, at);
}

void refuse_parquet(const std::string& path, std::string_view beginning, std::string_view end) {
  if (!beginning.starts_with(kParquet) || !end.ends_with(kParquet)) return;
  throw DataError("{}: is a Parquet file, not text. {}.", path, kConvert);
}

void require_data_file(const std::string& path) {
  if (!path_exists(path)) throw DataError("{}: no such data file", path);
  if (is_directory(path)) throw DataError("{}: is a directory; name the data files in it", path);
  if (file_size(path) == 0) throw DataError("{}: the file is empty", path);
}

TextFile::TextFile(const std::string& path) {
  require_data_file(path);
  file_.emplace(path);
  const auto bytes = file_->bytes();
  text_ = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  if (is_compressed(text_)) {
    file_.reset();
    unpacked_ = unpacked(path);
    text_ = unpacked_;
  }
  check_utf8(text_, path);
  refuse_parquet(path, text_, text_);
  if (text_.starts_with(kByteOrderMark)) text_.remove_prefix(kByteOrderMark.size());
  if (text_.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    throw DataError("{}: the file is empty", path);
  }
}

std::string_view without_compression_suffix(std::string_view path) {
  for (const std::string_view suffix : {".gz", ".zst"}) {
    if (path.ends_with(suffix)) return path.substr(0, path.size() - suffix.size());
  }
  return path;
}

bool is_json_lines_path(std::string_view path) {
  const std::string_view name = without_compression_suffix(path);
  return name.ends_with(".jsonl") || name.ends_with(".ndjson");
}

bool is_json_path(std::string_view path) {
  return is_json_lines_path(path) || without_compression_suffix(path).ends_with(".json");
}

}  // namespace train_sft
