#include <cstring>

#include "interop/map_file.h"
#include "interop/zip_file.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr uint32_t kEndSignature = 0x06054b50, kEnd64Signature = 0x06064b50,
                   kLocator64Signature = 0x07064b50, kEntrySignature = 0x02014b50,
                   kLocalSignature = 0x04034b50;
constexpr uint64_t kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20, kEntryBytes = 46,
                   kLeastLocalBytes = 30;
constexpr uint64_t kMaxComment = 65535;

class Records {
 public:
  Records(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  uint64_t size() const { return bytes_.size(); }
  const std::string& path() const { return path_; }

  void require(uint64_t at, uint64_t count, const char* what) const {
    if (at > size() || count > size() - at)
      throw CheckpointError("{}: {} at byte {} goes past the end of the file ({} bytes)", path_,
                            what, at, size());
  }
  template <typename T>
  T number(uint64_t at, const char* what) const {
    require(at, sizeof(T), what);
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof(T));
    return value;
  }
  std::string text(uint64_t at, uint64_t count, const char* what) const {
    require(at, count, what);
    return {reinterpret_cast<const char*>(bytes_.data()) + at, count};
  }
  std::span<const std::byte> bytes(uint64_t at, uint64_t count, const char* what) const {
    require(at, count, what);
    return bytes_.subspan(at, count);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
};

struct Directory {
  uint64_t entries = 0, bytes = 0, offset = 0;
};

uint64_t find_end(const Records& file) {
  if (file.size() >= kEndBytes) {
    const uint64_t last = file.size() - kEndBytes;
    const uint64_t first = last > kMaxComment ? last - kMaxComment : 0;
    for (uint64_t at = last + 1; at-- > first;)
      if (file.number<uint32_t>(at, "the end record") == kEndSignature) return at;
  }
  throw CheckpointError("{}: the zip archive has no end record; the file was cut off or is damaged",
                        file.path());
}

Directory read_end(const Records& file) {
  const uint64_t end = find_end(file);
  const char* what = "the archive's end record";
  Directory directory;
  directory.entries = file.number<uint16_t>(end + 10, what);
  directory.bytes = file.number<uint32_t>(end + 12, what);
  directory.offset = file.number<uint32_t>(end + 16, what);
  const bool zip64 = directory.entries == UINT16_MAX || directory.bytes == UINT32_MAX ||
                     directory.offset == UINT32_MAX;
  if (!zip64) return directory;
  if (end < kLocatorBytes ||
      file.number<uint32_t>(end - kLocatorBytes, what) != kLocator64Signature)
    throw CheckpointError("{}: the zip64 record that its end record promises is missing",
                          file.path());
  const auto at = file.number<uint64_t>(end - kLocatorBytes + 8, what);
  file.require(at, kEnd64Bytes, what);
  if (file.number<uint32_t>(at, what) != kEnd64Signature)
    throw CheckpointError("{}: no zip64 record at byte {}", file.path(), at);
  directory.entries = file.number<uint64_t>(at + 32, what);
  directory.bytes = file.number<uint64_t>(at + 40, what);
  directory.offset = file.number<uint64_t>(at + 48, what);
  return directory;
}

struct Entry {
  std::string name;
  uint64_t stored = 0, offset = 0, next = 0;
};

// Sizes beyond 32 bits stand in the zip64 extra field, those that are needed, in order.
void read_zip64(const Records& file, uint64_t at, uint64_t count, Entry& entry, uint64_t& size) {
  const char* what = "a member's extra field";
  file.require(at, count, what);
  const uint64_t end = at + count;
  while (end - at >= 4) {
    const auto id = file.number<uint16_t>(at, what);
    const uint64_t bytes = file.number<uint16_t>(at + 2, what);
    if (bytes > end - at - 4)
      throw CheckpointError("{}: {} at byte {} is too long", file.path(), what, at);
    uint64_t field = at + 4;
    if (id == 1) {
      for (uint64_t* value : {&size, &entry.stored, &entry.offset}) {
        if (*value != UINT32_MAX) continue;
        if (field + 8 > at + 4 + bytes)
          throw CheckpointError("{}: {} at byte {} is too short", file.path(), what, at);
        *value = file.number<uint64_t>(field, what);
        field += 8;
      }
    }
    at += 4 + bytes;
  }
}

Entry read_entry(const Records& file, uint64_t at) {
  const char* what = "an entry of the archive's directory";
  file.require(at, kEntryBytes, what);
  if (file.number<uint32_t>(at, what) != kEntrySignature)
    throw CheckpointError("{}: no directory entry at byte {}", file.path(), at);
  Entry entry;
  const auto flags = file.number<uint16_t>(at + 8, what);
  const auto method = file.number<uint16_t>(at + 10, what);
  entry.stored = file.number<uint32_t>(at + 20, what);
  uint64_t size = file.number<uint32_t>(at + 24, what);
  const uint64_t name = file.number<uint16_t>(at + 28, what);
  const uint64_t extra = file.number<uint16_t>(at + 30, what);
  const uint64_t comment = file.number<uint16_t>(at + 32, what);
  entry.offset = file.number<uint32_t>(at + 42, what);
  entry.name = file.text(at + kEntryBytes, name, what);
  read_zip64(file, at + kEntryBytes + name, extra, entry, size);
  entry.next = at + kEntryBytes + name + extra + comment;
  if ((flags & 1) != 0 || method != 0 || size != entry.stored)
    throw CheckpointError("{}: member '{}' is compressed or encrypted, which torch.save never does",
                          file.path(), entry.name);
  return entry;
}

}  // namespace

ZipFile::ZipFile(const std::string& path) : file_(map_model_file(path)) {
  const Records file(file_.bytes(), path);
  const Directory directory = read_end(file);
  if (directory.entries > directory.bytes / kEntryBytes)
    throw CheckpointError("{}: its directory of {} bytes cannot hold {} entries", path,
                          directory.bytes, directory.entries);
  file.require(directory.offset, directory.bytes, "the archive's directory");
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    const Entry entry = read_entry(file, at);
    at = entry.next;
    const char* what = "a member's header";
    file.require(entry.offset, kLeastLocalBytes, what);
    if (file.number<uint32_t>(entry.offset, what) != kLocalSignature)
      throw CheckpointError("{}: member '{}' has no header at byte {}", path, entry.name,
                            entry.offset);
    const uint64_t data = entry.offset + kLeastLocalBytes +
                          file.number<uint16_t>(entry.offset + 26, what) +
                          file.number<uint16_t>(entry.offset + 28, what);
    if (!members_.emplace(entry.name, file.bytes(data, entry.stored, "a member")).second)
      throw CheckpointError("{}: member '{}' is there twice", path, entry.name);
  }
}

const std::span<const std::byte>* ZipFile::find(const std::string& name) const {
  const auto found = members_.find(name);
  return found == members_.end() ? nullptr : &found->second;
}

}  // namespace train_sft
