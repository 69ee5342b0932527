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
    TRAIN_SFT_CHECK(names.insert(entry.name).second, "tensor '{}' given twice", entry.name);
    const uint64_t end = offset + expected_bytes(entry);
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

struct SafetensorsWriter::State {
  explicit State(const std::string& path) : file(path, FileWriter::Mode::truncate) {}
  void put(std::span<const std::byte> bytes) {
    file.write(bytes);
    checksum.add(bytes);
  }

  FileWriter file;
  Checksum checksum;
  uint64_t left = 0;  // bytes of tensors still to come
};

SafetensorsWriter::SafetensorsWriter(const std::string& path,
                                     const std::vector<SafetensorsEntry>& entries,
                                     const std::map<std::string, std::string>& metadata)
    : state_(std::make_unique<State>(path)) {
  const std::string header = header_of(entries, metadata);
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  state_->put(std::as_bytes(std::span(length)));
  state_->put(std::as_bytes(std::span(header)));
  for (const auto& entry : entries) state_->left += expected_bytes(entry);
}
SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  TRAIN_SFT_CHECK(bytes.size() <= state_->left, "{} bytes more than the tensors have",
                  bytes.size() - state_->left);
  state_->put(bytes);
  state_->left -= bytes.size();
}

std::string SafetensorsWriter::finish() {
  TRAIN_SFT_CHECK(state_->left == 0, "{} bytes of the tensors did not come", state_->left);
  state_->file.sync();
  state_->file.close();
  return state_->checksum.hex();
}

std::string write_safetensors(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                              const std::map<std::string, std::string>& metadata) {
  for (const auto& entry : entries)
    TRAIN_SFT_CHECK(entry.bytes.size() == expected_bytes(entry), "tensor '{}': {} bytes for {}",
                    entry.name, entry.bytes.size(), expected_bytes(entry));
  SafetensorsWriter writer(path, entries, metadata);
  for (const auto& entry : entries) writer.write(entry.bytes);
  return writer.finish();
}

}  // namespace train_sft
