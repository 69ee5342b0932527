#include <zlib.h>

#include <vector>

#include "interop/append_bytes.h"
#include "interop/zip_file.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr uint64_t kDataAlignment = 64;
constexpr uint64_t kLocalHeaderBytes = 30;
constexpr uint16_t kPaddingField = 0x4246;  // "FB": what torch pads with

uint32_t crc_of(std::span<const std::byte> bytes) {
  uLong crc = crc32_z(0, nullptr, 0);
  return static_cast<uint32_t>(
      crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

uint32_t limited(uint64_t value) {
  return value < UINT32_MAX ? static_cast<uint32_t>(value) : UINT32_MAX;
}

// What a member's header and its directory entry have in common.
void append_common(std::string& out, uint32_t crc, uint64_t bytes, size_t name, size_t extra) {
  append(out, uint16_t{45});  // version needed: zip64
  append(out, uint16_t{0});   // flags
  append(out, uint16_t{0});   // stored
  append(out, uint16_t{0});   // time and date: none, so that equal models are equal files
  append(out, uint16_t{0x21});
  append(out, crc);
  append(out, limited(bytes));
  append(out, limited(bytes));
  append(out, static_cast<uint16_t>(name));
  append(out, static_cast<uint16_t>(extra));
}

}  // namespace

struct ZipWriter::State {
  explicit State(const std::string& path) : file(path, FileWriter::Mode::truncate) {}
  FileWriter file;
  std::string directory;
  uint64_t entries = 0, written = 0;
  void put(const std::string& text) {
    file.write(text);
    written += text.size();
  }
};

ZipWriter::ZipWriter(const std::string& path) : state_(std::make_unique<State>(path)) {}
ZipWriter::~ZipWriter() = default;

void ZipWriter::add(const std::string& name, std::span<const std::byte> bytes) {
  State& s = *state_;
  const uint64_t offset = s.written;
  const uint32_t crc = crc_of(bytes);
  const bool large = bytes.size() >= UINT32_MAX;
  std::string extra;
  if (large) {
    append(extra, uint16_t{1});
    append(extra, uint16_t{16});
    append(extra, uint64_t{bytes.size()});
    append(extra, uint64_t{bytes.size()});
  }
  const uint64_t begin = offset + kLocalHeaderBytes + name.size() + extra.size() + 4;
  const auto padding =
      static_cast<uint16_t>((kDataAlignment - begin % kDataAlignment) % kDataAlignment);
  append(extra, kPaddingField);
  append(extra, padding);
  extra.append(padding, 'Z');

  std::string header;
  append(header, uint32_t{0x04034b50});
  append_common(header, crc, bytes.size(), name.size(), extra.size());
  s.put(header + name + extra);
  s.file.write(bytes);
  s.written += bytes.size();

  std::string zip64;
  if (large || offset >= UINT32_MAX) {
    append(zip64, uint16_t{1});
    append(zip64, static_cast<uint16_t>((large ? 16 : 0) + (offset >= UINT32_MAX ? 8 : 0)));
    if (large) {
      append(zip64, uint64_t{bytes.size()});
      append(zip64, uint64_t{bytes.size()});
    }
    if (offset >= UINT32_MAX) append(zip64, offset);
  }
  append(s.directory, uint32_t{0x02014b50});
  append(s.directory, uint16_t{45});  // version made by
  append_common(s.directory, crc, bytes.size(), name.size(), zip64.size());
  append(s.directory, uint16_t{0});  // comment
  append(s.directory, uint16_t{0});  // disk
  append(s.directory, uint16_t{0});  // attributes
  append(s.directory, uint32_t{0});
  append(s.directory, limited(offset));
  s.directory += name + zip64;
  ++s.entries;
}

void ZipWriter::finish() {
  State& s = *state_;
  const uint64_t offset = s.written, bytes = s.directory.size();
  s.put(s.directory);
  std::string end;
  const uint64_t end64 = s.written;
  append(end, uint32_t{0x06064b50});
  append(end, uint64_t{44});
  append(end, uint16_t{45});
  append(end, uint16_t{45});
  append(end, uint32_t{0});
  append(end, uint32_t{0});
  append(end, s.entries);
  append(end, s.entries);
  append(end, bytes);
  append(end, offset);
  append(end, uint32_t{0x07064b50});  // where that record is
  append(end, uint32_t{0});
  append(end, end64);
  append(end, uint32_t{1});
  append(end, uint32_t{0x06054b50});
  append(end, uint16_t{0});
  append(end, uint16_t{0});
  const auto entries =
      static_cast<uint16_t>(s.entries < UINT16_MAX ? s.entries : uint64_t{UINT16_MAX});
  append(end, entries);
  append(end, entries);
  append(end, limited(bytes));
  append(end, limited(offset));
  append(end, uint16_t{0});
  s.put(end);
  s.file.sync();
  s.file.close();
}

}  // namespace train_sft
