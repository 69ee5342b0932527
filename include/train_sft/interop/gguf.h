// GGUF files, versions 2 and 3 (ggml-org/ggml, docs/gguf.md): metadata of typed values, the list of
// tensors, then their bytes at aligned offsets. Little-endian only.
// Reading checks everything: counts and lengths against the file's size, types, offsets, overlaps.
// Throws CheckpointError with the byte or the name where it stands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "train_sft/base/file.h"
#include "train_sft/interop/tensor_types.h"

namespace train_sft {

// Integers of every width are int64_t, floats double. Arrays keep their element's kind.
using GgufValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<int64_t> shape;  // slowest first: GGUF's own order reversed
  std::span<const std::byte> bytes;
};

// Reads through a memory map; tensors point into it and live as long as the file object.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);
  const std::string& path() const { return path_; }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the file's order

  bool has(const std::string& key) const { return metadata_.contains(key); }
  // Each throws CheckpointError naming key and file when the value is of another type; without a
  // fallback also when it is missing.
  int64_t integer(const std::string& key) const;
  int64_t integer_or(const std::string& key, int64_t fallback) const;
  double number_or(const std::string& key, double fallback) const;
  bool flag_or(const std::string& key, bool fallback) const;
  std::string text(const std::string& key) const;
  std::string text_or(const std::string& key, const std::string& fallback) const;
  // Empty when missing.
  std::vector<std::string> texts(const std::string& key) const;
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<double> numbers(const std::string& key) const;

 private:
  template <typename T>
  const T* find(const std::string& key, const char* expected) const;

  std::string path_;
  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
};

// Collects metadata and tensors, then writes a version 3 file; tensors' bytes come one after
// another, so that a model larger than memory can be written.
class GgufWriter {
 public:
  // Integers as uint32, as llama.cpp's own converter writes them; floats as float32.
  void add(const std::string& key, uint32_t value);
  void add(const std::string& key, float value);
  void add(const std::string& key, bool value);
  void add(const std::string& key, const std::string& value);
  void add(const std::string& key, const std::vector<std::string>& values);
  void add(const std::string& key, const std::vector<int32_t>& values);
  void add(const std::string& key, const std::vector<float>& values);
  // shape: slowest first. Rows must be whole blocks of the type.
  void add_tensor(const std::string& name, const std::vector<int64_t>& shape, TensorType type);

  // Writes the file and syncs it; `bytes_of(i)` gives the bytes of the i-th tensor added.
  void write(const std::string& path,
             const std::function<std::span<const std::byte>(size_t)>& bytes_of) const;

 private:
  void key(const std::string& name, uint32_t type);

  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    TensorType type;
    uint64_t bytes;
  };
  std::string values_;
  uint64_t value_count_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace train_sft
