// GGUF files of a test's own, byte by byte, right and wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace train_sft {

class GgufBuilder {
 public:
  template <typename T>
  static std::string raw(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  static std::string text(const std::string& value) { return raw(uint64_t{value.size()}) + value; }

  uint32_t version = 3;
  uint64_t extra_tensors = 0, extra_values = 0;  // counted, not there

  GgufBuilder& value(const std::string& key, uint32_t type, const std::string& bytes) {
    values_ += text(key) + raw(type) + bytes;
    ++value_count_;
    return *this;
  }
  GgufBuilder& u32(const std::string& key, uint32_t v) { return value(key, 4, raw(v)); }
  GgufBuilder& f32(const std::string& key, float v) { return value(key, 6, raw(v)); }
  GgufBuilder& str(const std::string& key, const std::string& v) { return value(key, 8, text(v)); }

  // dimensions fastest first, as in the file; offset relative to the data.
  GgufBuilder& tensor(const std::string& name, const std::vector<uint64_t>& dimensions,
                      uint32_t type, uint64_t offset) {
    infos_ += text(name) + raw(static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t d : dimensions) infos_ += raw(d);
    infos_ += raw(type) + raw(offset);
    ++tensor_count_;
    return *this;
  }
  GgufBuilder& data(const std::string& bytes) {
    data_ += bytes;
    return *this;
  }

  std::string bytes(size_t alignment = 32) const {
    std::string file = "GGUF" + raw(version) + raw(tensor_count_ + extra_tensors) +
                       raw(value_count_ + extra_values) + values_ + infos_;
    file.append((alignment - file.size() % alignment) % alignment, '\0');
    return file + data_;
  }

 private:
  std::string values_, infos_, data_;
  uint64_t value_count_ = 0, tensor_count_ = 0;
};

}  // namespace train_sft
