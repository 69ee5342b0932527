// The safetensors format (huggingface/safetensors, format specification in its README): 8 bytes of
// header length, a JSON header of at most 100 MB, then the tensors' bytes without gaps.
// Reading checks everything: sizes, ranges, overlaps, dtypes, shapes. Throws CheckpointError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "train_sft/base/file.h"

namespace train_sft {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // F64, F32, F16, BF16, I64, I32, U8, ...
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// Reads through a memory map; entries point into it and live as long as the file object.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const SafetensorsEntry* find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::vector<SafetensorsEntry> entries_;  // by offset
  std::map<std::string, size_t> index_;    // name → place in entries_
  std::map<std::string, std::string> metadata_;
};

// Writes a file tensor by tensor, for models larger than memory.
class SafetensorsWriter {
 public:
  // The tensors to come, in order; their bytes are ignored.
  SafetensorsWriter(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                    const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  void write(std::span<const std::byte> bytes);  // of the next tensor, in one or more parts
  // Syncs the file and returns the checksum of its bytes (XXH3-128).
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// All at once. The same entries give the same bytes.
std::string write_safetensors(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                              const std::map<std::string, std::string>& metadata = {});

size_t dtype_bytes(const std::string& dtype);  // 0 when unknown

}  // namespace train_sft
