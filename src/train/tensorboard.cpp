#include "train/tensorboard.h"

#include <array>
#include <bit>
#include <chrono>
#include <optional>

namespace train_sft {
namespace {

// Wire types of protocol buffers.
enum class Wire : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, Wire wire) {
  put_varint(out, field << 3 | static_cast<uint32_t>(wire));
}

template <typename Unsigned>
void put_little_endian(std::string& out, Unsigned value) {
  for (size_t i = 0; i < sizeof(value); ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

void put_int(std::string& out, uint32_t field, uint64_t value) {
  put_key(out, field, Wire::varint);
  put_varint(out, value);
}

void put_double(std::string& out, uint32_t field, double value) {
  put_key(out, field, Wire::fixed64);
  put_little_endian(out, std::bit_cast<uint64_t>(value));
}

void put_bytes(std::string& out, uint32_t field, std::string_view value) {
  put_key(out, field, Wire::bytes);
  put_varint(out, value.size());
  out += value;
}

template <typename Unsigned>
Unsigned little_endian(std::string_view bytes) {
  Unsigned value = 0;
  for (size_t i = sizeof(value); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

// TFRecord masks its checksums, so that records inside records do not look like their own checksum.
uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::optional<uint64_t> take_varint(std::string_view& in) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !in.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(in.front());
    in.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

// The step of an Event message; absent means 0. Nothing when the message is malformed.
std::optional<int64_t> step_of_event(std::string_view in) {
  int64_t step = 0;
  while (!in.empty()) {
    const auto key = take_varint(in);
    if (!key) return std::nullopt;
    size_t skip = 0;
    switch (static_cast<Wire>(*key & 7)) {
      case Wire::varint: {
        const auto value = take_varint(in);
        if (!value) return std::nullopt;
        if (*key >> 3 == 2) step = static_cast<int64_t>(*value);
        break;
      }
      case Wire::fixed64:
        skip = 8;
        break;
      case Wire::fixed32:
        skip = 4;
        break;
      case Wire::bytes: {
        const auto length = take_varint(in);
        if (!length || *length > in.size()) return std::nullopt;
        skip = *length;
        break;
      }
      default:
        return std::nullopt;
    }
    if (skip > in.size()) return std::nullopt;
    in.remove_prefix(skip);
  }
  return step;
}

// The message of the record at the front of `in`, which is moved behind it; nothing when the record
// is cut short or damaged.
std::optional<std::string_view> take_record(std::string_view& in) {
  constexpr size_t kHead = 12, kTail = 4;
  if (in.size() < kHead) return std::nullopt;
  const auto length = little_endian<uint64_t>(in);
  if (little_endian<uint32_t>(in.substr(8)) != masked_crc32c(in.substr(0, 8))) return std::nullopt;
  if (length > in.size() - kHead || in.size() - kHead - length < kTail) return std::nullopt;
  const std::string_view message = in.substr(kHead, length);
  if (little_endian<uint32_t>(in.substr(kHead + length)) != masked_crc32c(message))
    return std::nullopt;
  in.remove_prefix(kHead + length + kTail);
  return message;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
      entries[i] = crc;
    }
    return entries;
  }();
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
  return ~crc;
}

EventFile::EventFile(const std::string& path)
    : is_new_(!path_exists(path) || file_size(path) == 0), file_(path) {
  if (!is_new_) return;
  std::string event;
  put_key(event, 1, Wire::fixed64);
  put_little_endian(event, std::bit_cast<uint64_t>(0.0));
  put_bytes(event, 3, "brain.Event:2");
  write_record(event);
}

void EventFile::scalar(const std::string& tag, int64_t step, double value) {
  std::string message;
  put_bytes(message, 1, tag);
  put_key(message, 2, Wire::fixed32);
  put_little_endian(message, std::bit_cast<uint32_t>(static_cast<float>(value)));
  write_event(step, message);
}

void EventFile::text(const std::string& tag, int64_t step, const std::string& value) {
  std::string dimension, shape, tensor, plugin, metadata, message;
  put_int(dimension, 1, 1);
  put_bytes(shape, 2, dimension);
  constexpr uint64_t kStringType = 7;  // DT_STRING
  put_int(tensor, 1, kStringType);
  put_bytes(tensor, 2, shape);
  put_bytes(tensor, 8, value);
  put_bytes(plugin, 1, "text");
  put_bytes(metadata, 1, plugin);
  put_bytes(message, 1, tag);
  put_bytes(message, 8, tensor);
  put_bytes(message, 9, metadata);
  write_event(step, message);
}

void EventFile::histogram(const std::string& tag, int64_t step, const Histogram& histogram) {
  std::string proto, limits, counts, message;
  put_double(proto, 1, histogram.min);
  put_double(proto, 2, histogram.max);
  put_double(proto, 3, static_cast<double>(histogram.count));
  put_double(proto, 4, histogram.sum);
  put_double(proto, 5, histogram.sum_squares);
  for (const double limit : histogram.limits)
    put_little_endian(limits, std::bit_cast<uint64_t>(limit));
  for (const uint64_t count : histogram.counts)
    put_little_endian(counts, std::bit_cast<uint64_t>(static_cast<double>(count)));
  put_bytes(proto, 6, limits);  // repeated doubles, packed
  put_bytes(proto, 7, counts);
  put_bytes(message, 1, tag);
  put_bytes(message, 5, proto);
  write_event(step, message);
}

void EventFile::write_event(int64_t step, std::string_view value_message) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::string summary, event;
  put_bytes(summary, 1, value_message);
  put_key(event, 1, Wire::fixed64);
  put_little_endian(event, std::bit_cast<uint64_t>(now.count()));
  put_int(event, 2, static_cast<uint64_t>(step));
  put_bytes(event, 5, summary);
  write_record(event);
}

void EventFile::write_record(const std::string& record) {
  std::string frame;
  put_little_endian(frame, uint64_t{record.size()});
  put_little_endian(frame, masked_crc32c(frame));
  frame += record;
  put_little_endian(frame, masked_crc32c(record));
  file_.write(frame);
}

void cut_event_file(const std::string& path, int64_t step) {
  uint64_t keep = 0;
  {
    const MappedFile file(path);
    const std::string_view all(reinterpret_cast<const char*>(file.bytes().data()),
                               file.bytes().size());
    std::string_view rest = all;
    while (const auto message = take_record(rest)) {
      const auto event_step = step_of_event(*message);
      if (!event_step || *event_step > step) break;
      keep = all.size() - rest.size();
    }
  }
  if (keep < file_size(path)) truncate_file(path, keep);
}

}  // namespace train_sft
