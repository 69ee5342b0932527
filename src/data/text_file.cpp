#include "text_file.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>

#include "train_sft/base/error.h"
#include "train_sft/text/utf8.h"

namespace train_sft {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kGzip = "\x1F\x8B";
constexpr std::string_view kZstd = "\x28\xB5\x2F\xFD";
constexpr size_t kChunk = size_t{1} << 20;
// A few kilobytes can unpack to fill any memory; real text shrinks to a tenth or so.
constexpr uint64_t kAlwaysAllowed = uint64_t{1} << 30;
constexpr uint64_t kLargestRatio = 200;

std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Collects what a decompressor gives, chunk by chunk.
class Output {
 public:
  Output(const std::string& path, uint64_t packed_bytes)
      : path_(path), limit_(std::max(kAlwaysAllowed, packed_bytes * kLargestRatio)) {}

  char* chunk() { return chunk_.get(); }
  void keep(size_t bytes) {
    if (text_.size() + bytes > limit_) {
      throw DataError(
          "{}: unpacks to more than {} bytes, {} times its size: that is no text to train on",
          path_, limit_, kLargestRatio);
    }
    text_.append(chunk_.get(), bytes);
  }
  std::string take() { return std::move(text_); }

 private:
  const std::string& path_;
  uint64_t limit_;
  std::string text_;
  std::unique_ptr<char[]> chunk_ = std::make_unique_for_overwrite<char[]>(kChunk);
};

[[noreturn]] void cut_short(const std::string& path, const char* what) {
  throw DataError("{}: the {} data ends too early; is the file cut short?", path, what);
}

std::string gunzip(Bytes packed, const std::string& path) {
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) throw ResourceError("{}: no memory", path);
  const std::unique_ptr<z_stream, int (*)(z_stream*)> ends(&stream, inflateEnd);
  Output out(path, packed.size());
  size_t at = 0;
  bool inside = true;  // a member
  while (inside || at < packed.size()) {
    if (!inside) {
      inflateReset(&stream);
      inside = true;
    }
    const size_t given = std::min(packed.size() - at, kChunk);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data() + at));
    stream.avail_in = static_cast<uInt>(given);
    stream.next_out = reinterpret_cast<Bytef*>(out.chunk());
    stream.avail_out = kChunk;
    const int status = inflate(&stream, Z_NO_FLUSH);
    at += given - stream.avail_in;
    out.keep(kChunk - stream.avail_out);
    if (status == Z_STREAM_END) {
      inside = false;
      // Tools may pad the file with zeros.
      const auto rest = packed.subspan(at);
      if (std::all_of(rest.begin(), rest.end(), [](std::byte b) { return b == std::byte{0}; }))
        break;
    } else if (status == Z_BUF_ERROR || (status == Z_OK && given == 0)) {
      cut_short(path, "gzip");
    } else if (status != Z_OK) {
      throw DataError("{}: damaged gzip data at byte {} ({})", path, at,
                      stream.msg != nullptr ? stream.msg : "unknown reason");
    }
  }
  return out.take();
}

std::string unzstd(Bytes packed, const std::string& path) {
  const std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream(ZSTD_createDStream(),
                                                                        ZSTD_freeDStream);
  if (!stream) throw ResourceError("{}: no memory", path);
  Output out(path, packed.size());
  ZSTD_inBuffer in{packed.data(), packed.size(), 0};
  size_t wanted = 1;  // 0: at the end of a frame
  while (in.pos < in.size || wanted != 0) {
    ZSTD_outBuffer chunk{out.chunk(), kChunk, 0};
    const size_t before = in.pos;
    wanted = ZSTD_decompressStream(stream.get(), &chunk, &in);
    if (ZSTD_isError(wanted)) {
      throw DataError("{}: damaged zstd data at byte {} ({})", path, in.pos,
                      ZSTD_getErrorName(wanted));
    }
    out.keep(chunk.pos);
    if (wanted != 0 && in.pos == before && chunk.pos == 0) cut_short(path, "zstd");
  }
  return out.take();
}

void refuse_known_binary(std::string_view text, const std::string& path) {
  struct Kind {
    std::string_view magic;
    const char* name;
    const char* remedy;
  };
  constexpr const char* kConvert = "Convert it: python scripts/to_jsonl.py FILE -o FILE.jsonl";
  constexpr const char* kUnpack = "Unpack it first";
  constexpr const char* kIconv = "Convert it: iconv -f utf-16 -t utf-8";
  const std::array<Kind, 8> kinds{{{"PAR1", "a Parquet file", kConvert},
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
    if (text.starts_with(kind.magic) && find_invalid_utf8(text)) {
      throw DataError("{}: is {}, not text. {}.", path, kind.name, kind.remedy);
    }
  }
  if (text.starts_with("PAR1") && text.ends_with("PAR1")) {
    throw DataError("{}: is a Parquet file, not text. {}.", path, kConvert);
  }
}

void check_utf8(std::string_view text, const std::string& path) {
  const auto invalid = find_invalid_utf8(text);
  if (!invalid) return;
  const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<long>(*invalid), '\n');
  throw DataError(
      "{}:{}: not UTF-8: invalid byte 0x{:02X} at byte {}. Convert the file, for "
      "example with `iconv -f latin1 -t utf-8`.",
      path, line, static_cast<unsigned char>(text[*invalid]), *invalid);
}

}  // namespace

TextFile::TextFile(const std::string& path) {
  if (!path_exists(path)) throw DataError("{}: no such data file", path);
  if (is_directory(path)) throw DataError("{}: is a directory; name the data files in it", path);
  if (file_size(path) == 0) throw DataError("{}: the file is empty", path);
  file_.emplace(path);
  text_ = as_text(file_->bytes());
  if (text_.starts_with(kGzip) || text_.starts_with(kZstd)) {
    unpacked_ =
        text_.starts_with(kGzip) ? gunzip(file_->bytes(), path) : unzstd(file_->bytes(), path);
    text_ = unpacked_;
    file_.reset();
  }
  refuse_known_binary(text_, path);
  check_utf8(text_, path);
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
