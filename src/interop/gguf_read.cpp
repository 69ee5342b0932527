// Everything in the file is hostile until checked: a count is believed only if the file is large
// enough to hold that many of the smallest thing counted.
#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "interop/gguf_values.h"
#include "interop/map_file.h"
#include "train_sft/base/error.h"
#include "train_sft/interop/gguf.h"

namespace train_sft {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint32_t kMaxDimensions = 4;

// Bytes of a value of this type at least; 0: no such type.
uint64_t least_bytes(uint32_t type) {
  constexpr uint64_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

// A float32 as the double that people wrote: 1e-05, not 9.999999747378752e-06.
double shortest(float value) {
  if (!std::isfinite(value)) return value;
  const std::string text = fmt::format("{}", value);
  double result = 0;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(uint64_t count, const std::string& what) {
    if (count > left())
      throw CheckpointError(
          "{}: {} at byte {} needs {} bytes, but the file ends after {}; it was cut off or is "
          "damaged",
          path_, what, at_, count, left());
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }

  template <typename T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string text(const std::string& what) {
    const auto length = number<uint64_t>(what);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  // A count of things of at least `least` bytes each.
  uint64_t count(uint64_t least, const std::string& what) {
    const uint64_t place = at_;
    const auto value = number<uint64_t>(what);
    if (value > left() / least)
      throw CheckpointError("{}: {} at byte {} is {}, more than the file's {} bytes can hold",
                            path_, what, place, value, bytes_.size());
    return value;
  }

  const std::string& path() const { return path_; }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
  uint64_t at_ = 0;
};

int64_t read_integer(Cursor& cursor, uint32_t type, const std::string& what) {
  switch (type) {
    case kUint8:
      return cursor.number<uint8_t>(what);
    case kInt8:
      return cursor.number<int8_t>(what);
    case kUint16:
      return cursor.number<uint16_t>(what);
    case kInt16:
      return cursor.number<int16_t>(what);
    case kUint32:
      return cursor.number<uint32_t>(what);
    case kInt32:
      return cursor.number<int32_t>(what);
    case kInt64:
      return cursor.number<int64_t>(what);
    default:
      break;
  }
  const auto value = cursor.number<uint64_t>(what);
  if (value > uint64_t{INT64_MAX})
    throw CheckpointError("{}: {} is {}, beyond 2^63", cursor.path(), what, value);
  return static_cast<int64_t>(value);
}

bool read_bool(Cursor& cursor, const std::string& what) {
  const auto value = cursor.number<uint8_t>(what);
  if (value > 1)
    throw CheckpointError("{}: {} is {}, expected 0 or 1 for a bool", cursor.path(), what, value);
  return value == 1;
}

double read_float(Cursor& cursor, uint32_t type, const std::string& what) {
  return type == kFloat64 ? cursor.number<double>(what) : shortest(cursor.number<float>(what));
}

template <typename T, typename Read>
std::vector<T> read_list(uint64_t count, Read read) {
  std::vector<T> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) values.push_back(read());
  return values;
}

GgufValue read_array(Cursor& cursor, const std::string& what) {
  const auto type = cursor.number<uint32_t>(what);
  if (least_bytes(type) == 0 || type == kArray)
    throw CheckpointError("{}: {} is an array of type {}, which no GGUF metadata uses",
                          cursor.path(), what, type);
  const uint64_t count = cursor.count(least_bytes(type), "the length of " + what);
  if (type == kString) return read_list<std::string>(count, [&] { return cursor.text(what); });
  if (type == kFloat32 || type == kFloat64)
    return read_list<double>(count, [&] { return read_float(cursor, type, what); });
  if (type == kBool)
    return read_list<int64_t>(count, [&] { return int64_t{read_bool(cursor, what)}; });
  return read_list<int64_t>(count, [&] { return read_integer(cursor, type, what); });
}

GgufValue read_value(Cursor& cursor, const std::string& what) {
  const auto type = cursor.number<uint32_t>(what);
  if (least_bytes(type) == 0)
    throw CheckpointError("{}: {} at byte {} has the unknown type {}", cursor.path(), what,
                          cursor.at() - 4, type);
  if (type == kArray) return read_array(cursor, what);
  if (type == kString) return cursor.text(what);
  if (type == kBool) return read_bool(cursor, what);
  if (type == kFloat32 || type == kFloat64) return read_float(cursor, type, what);
  return read_integer(cursor, type, what);
}

std::map<std::string, GgufValue> read_metadata(Cursor& cursor, uint64_t count) {
  std::map<std::string, GgufValue> metadata;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t place = cursor.at();
    const std::string key = cursor.text(fmt::format("metadata key {}", i));
    if (key.empty() || key.size() > kMaxKeyBytes)
      throw CheckpointError("{}: metadata key {} at byte {} has {} bytes, expected 1 to {}",
                            cursor.path(), i, place, key.size(), kMaxKeyBytes);
    const std::string what = fmt::format("metadata '{}'", key);
    if (!metadata.emplace(key, read_value(cursor, what)).second)
      throw CheckpointError("{}: {} occurs twice, again at byte {}", cursor.path(), what, place);
  }
  return metadata;
}

struct Placed {
  GgufTensor tensor;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

Placed read_tensor_info(Cursor& cursor, uint64_t index) {
  Placed placed;
  GgufTensor& tensor = placed.tensor;
  tensor.name = cursor.text(fmt::format("the name of tensor {}", index));
  const std::string what = fmt::format("tensor '{}'", tensor.name);
  const auto dimensions = cursor.number<uint32_t>(what);
  if (dimensions > kMaxDimensions)
    throw CheckpointError("{}: {} has {} dimensions, expected at most {}", cursor.path(), what,
                          dimensions, kMaxDimensions);
  uint64_t values = 1;
  for (uint32_t d = 0; d < dimensions; ++d) {
    const auto size = cursor.number<uint64_t>(what);
    if (size > uint64_t{INT64_MAX} || __builtin_mul_overflow(values, size, &values) ||
        values > uint64_t{INT64_MAX} / 8)
      throw CheckpointError("{}: {}: the product of its dimensions overflows", cursor.path(), what);
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto type_id = cursor.number<uint32_t>(what);
  const auto type = tensor_type_of_gguf(type_id);
  if (!type)
    throw CheckpointError(
        "{}: {} has the number format {} (ggml_type), which is not read here; F32, F16, BF16, "
        "Q8_0, Q6_K, Q5_K, Q4_K, Q5_1, Q5_0, Q4_1 and Q4_0 are: take the model in one of these",
        cursor.path(), what, type_id);
  tensor.type = *type;
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (row % info(*type).block != 0)
    throw CheckpointError("{}: {}: rows of {} values are not whole {} blocks of {}", cursor.path(),
                          what, row, info(*type).name, info(*type).block);
  placed.bytes = bytes_of_values(*type, values);
  placed.offset = cursor.number<uint64_t>(what);
  return placed;
}

uint64_t alignment_of(const std::map<std::string, GgufValue>& metadata, const std::string& path) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  const int64_t* value = std::get_if<int64_t>(&found->second);
  if (value == nullptr || *value < 1 || static_cast<uint64_t>(*value) > kMaxAlignment ||
      !std::has_single_bit(static_cast<uint64_t>(*value)))
    throw CheckpointError("{}: metadata 'general.alignment' must be a power of two up to {}", path,
                          kMaxAlignment);
  return static_cast<uint64_t>(*value);
}

// Tensors lie inside the file, aligned, and none over another.
void check_places(const std::vector<Placed>& tensors, uint64_t data_bytes, uint64_t alignment,
                  const std::string& path) {
  std::vector<const Placed*> order;
  for (const Placed& placed : tensors) order.push_back(&placed);
  std::sort(order.begin(), order.end(),
            [](const Placed* a, const Placed* b) { return a->offset < b->offset; });
  uint64_t end = 0;
  for (const Placed* placed : order) {
    const std::string& name = placed->tensor.name;
    if (placed->offset % alignment != 0)
      throw CheckpointError("{}: tensor '{}' begins at data byte {}, not a multiple of {}", path,
                            name, placed->offset, alignment);
    if (placed->offset > data_bytes || placed->bytes > data_bytes - placed->offset)
      throw CheckpointError(
          "{}: tensor '{}' has {} bytes at data byte {}, beyond the {} bytes of data; the file was "
          "cut off or is damaged",
          path, name, placed->bytes, placed->offset, data_bytes);
    if (placed->offset < end)
      throw CheckpointError(
          "{}: tensor '{}' begins at data byte {} inside another, which ends at {}", path, name,
          placed->offset, end);
    end = placed->offset + placed->bytes;
  }
}

void check_header(Cursor& cursor) {
  const auto magic = cursor.take(4, "the format's name");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0)
    throw CheckpointError("{}: does not begin with \"GGUF\"; this is not a GGUF file",
                          cursor.path());
  const auto version = cursor.number<uint32_t>("the version");
  if (version == 2 || version == 3) return;
  if ((version & 0xffff) == 0)
    throw CheckpointError("{}: is a big-endian GGUF file; convert it to little-endian",
                          cursor.path());
  throw CheckpointError("{}: GGUF version {} at byte 4; versions 2 and 3 are read", cursor.path(),
                        version);
}

}  // namespace

GgufFile::GgufFile(const std::string& path) : path_(path), file_(map_model_file(path)) {
  Cursor cursor(file_.bytes(), path_);
  check_header(cursor);
  constexpr uint64_t kLeastTensorInfo = 8 + 4 + 4 + 8, kLeastKeyValue = 8 + 4 + 1;
  const uint64_t tensor_count = cursor.count(kLeastTensorInfo, "the number of tensors");
  const uint64_t value_count = cursor.count(kLeastKeyValue, "the number of metadata values");
  metadata_ = read_metadata(cursor, value_count);
  std::vector<Placed> placed;
  std::set<std::string> names;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    placed.push_back(read_tensor_info(cursor, i));
    if (!names.insert(placed.back().tensor.name).second)
      throw CheckpointError("{}: tensor '{}' is listed twice", path, placed.back().tensor.name);
  }
  const uint64_t alignment = alignment_of(metadata_, path_);
  const uint64_t begin = (cursor.at() + alignment - 1) / alignment * alignment;
  const auto data = file_.bytes().subspan(std::min<uint64_t>(begin, file_.bytes().size()));
  check_places(placed, data.size(), alignment, path_);
  for (Placed& p : placed) {
    p.tensor.bytes = data.subspan(p.offset, p.bytes);
    tensors_.push_back(std::move(p.tensor));
  }
}

template <typename T>
const T* GgufFile::find(const std::string& key, const char* expected) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return nullptr;
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) throw CheckpointError("{}: metadata '{}' is not {}", path_, key, expected);
  return value;
}

int64_t GgufFile::integer(const std::string& key) const {
  const auto* value = find<int64_t>(key, "an integer");
  if (value == nullptr) throw CheckpointError("{}: no metadata '{}'", path_, key);
  return *value;
}
int64_t GgufFile::integer_or(const std::string& key, int64_t fallback) const {
  const auto* value = find<int64_t>(key, "an integer");
  return value == nullptr ? fallback : *value;
}
double GgufFile::number_or(const std::string& key, double fallback) const {
  const auto* value = find<double>(key, "a float");
  return value == nullptr ? fallback : *value;
}
bool GgufFile::flag_or(const std::string& key, bool fallback) const {
  const auto* value = find<bool>(key, "a bool");
  return value == nullptr ? fallback : *value;
}
std::string GgufFile::text(const std::string& key) const {
  const auto* value = find<std::string>(key, "a string");
  if (value == nullptr) throw CheckpointError("{}: no metadata '{}'", path_, key);
  return *value;
}
std::string GgufFile::text_or(const std::string& key, const std::string& fallback) const {
  const auto* value = find<std::string>(key, "a string");
  return value == nullptr ? fallback : *value;
}
std::vector<std::string> GgufFile::texts(const std::string& key) const {
  const auto* value = find<std::vector<std::string>>(key, "an array of strings");
  return value == nullptr ? std::vector<std::string>() : *value;
}
std::vector<int64_t> GgufFile::integers(const std::string& key) const {
  const auto* value = find<std::vector<int64_t>>(key, "an array of integers");
  return value == nullptr ? std::vector<int64_t>() : *value;
}
std::vector<double> GgufFile::numbers(const std::string& key) const {
  const auto* value = find<std::vector<double>>(key, "an array of floats");
  return value == nullptr ? std::vector<double>() : *value;
}

}  // namespace train_sft
