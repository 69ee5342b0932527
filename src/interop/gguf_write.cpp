
#include "interop/append_bytes.h"
#include "interop/gguf_values.h"
#include "train_sft/base/error.h"
#include "train_sft/interop/gguf.h"

namespace train_sft {
namespace {

void append_text(std::string& out, const std::string& text) {
  append(out, uint64_t{text.size()});
  out += text;
}

uint64_t padding(uint64_t size) {
  return (kDefaultAlignment - size % kDefaultAlignment) % kDefaultAlignment;
}

}  // namespace

void GgufWriter::key(const std::string& name, uint32_t type) {
  append_text(values_, name);
  append(values_, type);
  ++value_count_;
}

void GgufWriter::add(const std::string& name, uint32_t value) {
  key(name, kUint32);
  append(values_, value);
}
void GgufWriter::add(const std::string& name, float value) {
  key(name, kFloat32);
  append(values_, value);
}
void GgufWriter::add(const std::string& name, bool value) {
  key(name, kBool);
  append(values_, static_cast<uint8_t>(value ? 1 : 0));
}
void GgufWriter::add(const std::string& name, const std::string& value) {
  key(name, kString);
  append_text(values_, value);
}
void GgufWriter::add(const std::string& name, const std::vector<std::string>& values) {
  key(name, kArray);
  append(values_, kString);
  append(values_, uint64_t{values.size()});
  for (const std::string& value : values) append_text(values_, value);
}
void GgufWriter::add(const std::string& name, const std::vector<int32_t>& values) {
  key(name, kArray);
  append(values_, kInt32);
  append(values_, uint64_t{values.size()});
  for (const int32_t value : values) append(values_, value);
}
void GgufWriter::add(const std::string& name, const std::vector<float>& values) {
  key(name, kArray);
  append(values_, kFloat32);
  append(values_, uint64_t{values.size()});
  for (const float value : values) append(values_, value);
}

void GgufWriter::add_tensor(const std::string& name, const std::vector<int64_t>& shape,
                            TensorType type) {
  uint64_t values = 1;
  for (const int64_t size : shape) values *= static_cast<uint64_t>(size);
  TRAIN_SFT_CHECK(shape.empty() || shape.back() % info(type).block == 0, "rows of '{}'", name);
  tensors_.push_back({name, shape, type, bytes_of_values(type, values)});
}

void GgufWriter::write(const std::string& path,
                       const std::function<std::span<const std::byte>(size_t)>& bytes_of) const {
  std::string header = "GGUF";
  append(header, uint32_t{3});
  append(header, uint64_t{tensors_.size()});
  append(header, value_count_);
  header += values_;
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    append_text(header, tensor.name);
    append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
      append(header, static_cast<uint64_t>(*size));
    append(header, static_cast<uint32_t>(info(tensor.type).gguf_id));
    append(header, offset);
    offset += tensor.bytes + padding(tensor.bytes);
  }
  header.append(padding(header.size()), '\0');

  FileWriter file(path, FileWriter::Mode::truncate);
  file.write(header);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const auto bytes = bytes_of(i);
    TRAIN_SFT_CHECK(bytes.size() == tensors_[i].bytes, "tensor '{}': {} bytes for {}",
                    tensors_[i].name, bytes.size(), tensors_[i].bytes);
    file.write(bytes);
    file.write(std::string(padding(bytes.size()), '\0'));
  }
  file.sync();
  file.close();
}

}  // namespace train_sft
