#include <array>
#include <set>

#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/json.h"
#include "train_sft/interop/safetensors.h"

namespace train_sft {
namespace {

uint64_t expected_bytes(const SafetensorsEntry& entry) {
  uint64_t bytes = dtype_bytes(entry.dtype);
  for (const int64_t size : entry.shape) bytes *= static_cast<uint64_t>(size);
  return bytes;
}

// Spaces pad the header so that the data begin at a multiple of 64: a reader's memory map is then
// as well aligned as the buffers it was written from.
std::string header_of(const std::vector<SafetensorsEntry>& entries,
                      const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string text = header.dump();
  text.pop_back();  // the closing brace
  uint64_t offset = 0;
  std::set<std::string> names;
  for (const auto& entry : entries) {
    TRAIN_SFT_CHECK(dtype_bytes(entry.dtype) > 0, "tensor '{}' has dtype '{}'", entry.name,
                    entry.dtype);
    TRAIN_SFT_CHECK(entry.bytes.size() == expected_bytes(entry), "tensor '{}': {} bytes for {}",
                    entry.name, entry.bytes.size(), expected_bytes(entry));
    TRAIN_SFT_CHECK(names.insert(entry.name).second, "tensor '{}' given twice", entry.name);
    const uint64_t end = offset + entry.bytes.size();
    const Json value = {
        {"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    if (text.size() > 1) text += ',';
    // One entry at a time: inserting each into one ordered object would compare with all before.
    text += fmt::format("{}:{}", Json(entry.name).dump(), value.dump());
    offset = end;
  }
  text += '}';
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');
  return text;
}

}  // namespace

std::string write_safetensors(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                              const std::map<std::string, std::string>& metadata) {
  const std::string header = header_of(entries, metadata);
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);

  FileWriter file(path, FileWriter::Mode::truncate);
  Checksum checksum;
  const auto put = [&](std::span<const std::byte> bytes) {
    file.write(bytes);
    checksum.add(bytes);
  };
  put(std::as_bytes(std::span(length)));
  put(std::as_bytes(std::span(header)));
  for (const auto& entry : entries) put(entry.bytes);
  file.sync();
  file.close();
  return checksum.hex();
}

}  // namespace train_sft
