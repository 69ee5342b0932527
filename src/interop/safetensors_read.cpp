// Everything in the header is hostile until checked: a checkpoint may come from anywhere, and a
// range that is not verified here would be read from unmapped memory later.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "interop/map_file.h"
#include "train_sft/base/error.h"
#include "train_sft/interop/safetensors.h"

namespace train_sft {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr int kMaxHeaderDepth = 8;                 // the format needs 3

// Not the ordered Json of base: its look-up is linear, so a header of a million names would take
// hours. Order follows from the offsets anyway.
using Header = nlohmann::json;

uint64_t little_endian_u64(const std::byte* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

std::string_view header_text(std::span<const std::byte> file, const std::string& path) {
  if (file.size() < kLengthBytes)
    throw CheckpointError(
        "{}: {} bytes is too short for a safetensors file (8 bytes of header "
        "length come first); the file was cut off or is something else",
        path, file.size());
  const uint64_t length = little_endian_u64(file.data());
  if (length > kMaxHeaderBytes)
    throw CheckpointError(
        "{}: header length {} at byte 0 exceeds the format's {} bytes; this is "
        "not a safetensors file",
        path, length, kMaxHeaderBytes);
  if (length > file.size() - kLengthBytes)
    throw CheckpointError(
        "{}: header length {} at byte 0 goes past the end of the file ({} bytes); "
        "the file was cut off",
        path, length, file.size());
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (text.empty() || text.front() != '{')
    throw CheckpointError(
        "{}: the header at byte 8 does not begin with '{{'; this is not a "
        "safetensors file",
        path);
  return text;
}

// The parser would keep the last of two equal keys; the format forbids them.
Header parse_header(std::string_view text, const std::string& path) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Header::parse_event_t event, Header& parsed) {
    if (depth > kMaxHeaderDepth)
      throw CheckpointError("{}: the header nests deeper than any safetensors header", path);
    if (event == Header::parse_event_t::object_start) keys.emplace_back();
    if (event == Header::parse_event_t::object_end) keys.pop_back();
    if (event == Header::parse_event_t::key &&
        !keys.back().insert(parsed.get_ref<const std::string&>()).second)
      throw CheckpointError("{}: the header names '{}' twice", path,
                            parsed.get_ref<const std::string&>());
    return true;
  };
  try {
    return Header::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::exception& error) {
    throw CheckpointError("{}: the header is not valid JSON: {}", path, error.what());
  }
}

std::map<std::string, std::string> parse_metadata(const Header& value, const std::string& path) {
  if (!value.is_object())
    throw CheckpointError("{}: __metadata__ must be an object of strings", path);
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      throw CheckpointError("{}: __metadata__ field '{}' must be a string", path, key);
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

const Header& field(const Header& tensor, const char* name, const std::string& where) {
  if (!tensor.is_object()) throw CheckpointError("{}: must be an object", where);
  const auto found = tensor.find(name);
  if (found == tensor.end()) throw CheckpointError("{}: field '{}' is missing", where, name);
  return *found;
}

std::vector<uint64_t> unsigned_list(const Header& value, const char* name,
                                    const std::string& where) {
  if (!value.is_array())
    throw CheckpointError("{}: field '{}' must be a list of numbers", where, name);
  std::vector<uint64_t> numbers;
  for (const auto& item : value) {
    if (!item.is_number_unsigned())
      throw CheckpointError("{}: field '{}' must hold integers that are not negative", where, name);
    numbers.push_back(item.get<uint64_t>());
  }
  return numbers;
}

struct Range {
  uint64_t begin, end;
};

SafetensorsEntry parse_entry(const std::string& name, const Header& tensor,
                             std::span<const std::byte> data, Range& range,
                             const std::string& path) {
  const std::string where = fmt::format("{}: tensor '{}'", path, name);
  SafetensorsEntry entry;
  entry.name = name;
  const Header& dtype = field(tensor, "dtype", where);
  if (!dtype.is_string()) throw CheckpointError("{}: field 'dtype' must be a string", where);
  entry.dtype = dtype.get<std::string>();
  uint64_t bytes = dtype_bytes(entry.dtype);
  if (bytes == 0) throw CheckpointError("{}: unknown dtype '{}'", where, entry.dtype);
  for (const uint64_t size : unsigned_list(field(tensor, "shape", where), "shape", where)) {
    if (size > uint64_t{INT64_MAX} || __builtin_mul_overflow(bytes, size, &bytes))
      throw CheckpointError("{}: the product of its shape overflows 64 bits", where);
    entry.shape.push_back(static_cast<int64_t>(size));
  }
  const auto offsets = unsigned_list(field(tensor, "data_offsets", where), "data_offsets", where);
  if (offsets.size() != 2)
    throw CheckpointError("{}: field 'data_offsets' must be [begin, end]", where);
  range = {offsets[0], offsets[1]};
  if (range.begin > range.end || range.end > data.size())
    throw CheckpointError("{}: data_offsets [{}, {}] lie outside the {} bytes of data", where,
                          range.begin, range.end, data.size());
  if (range.end - range.begin != bytes)
    throw CheckpointError("{}: data_offsets [{}, {}] hold {} bytes where dtype and shape need {}",
                          where, range.begin, range.end, range.end - range.begin, bytes);
  entry.bytes = data.subspan(range.begin, bytes);
  return entry;
}

// The format allows neither gaps nor overlaps: bytes that no tensor names could hide anything.
void check_contiguous(const std::vector<std::pair<Range, SafetensorsEntry>>& tensors,
                      uint64_t data_bytes, const std::string& path) {
  uint64_t expected = 0;
  for (const auto& [range, entry] : tensors) {
    if (range.begin != expected)
      throw CheckpointError(
          "{}: tensor '{}' begins at data byte {} where the one before ends at {}", path,
          entry.name, range.begin, expected);
    expected = range.end;
  }
  if (expected != data_bytes)
    throw CheckpointError("{}: the tensors end at data byte {} but the file holds {}", path,
                          expected, data_bytes);
}

}  // namespace

size_t dtype_bytes(const std::string& dtype) {
  static const std::map<std::string, size_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
      {"F32", 4},  {"C64", 8}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(map_model_file(path)) {
  const std::string_view text = header_text(file_.bytes(), path);
  const auto data = file_.bytes().subspan(kLengthBytes + text.size());
  const Header header = parse_header(text, path);
  std::vector<std::pair<Range, SafetensorsEntry>> tensors;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      metadata_ = parse_metadata(value, path);
      continue;
    }
    Range range{};
    SafetensorsEntry entry = parse_entry(name, value, data, range, path);
    tensors.emplace_back(range, std::move(entry));
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first.begin, a.first.end, a.second.name) <
           std::tie(b.first.begin, b.first.end, b.second.name);
  });
  check_contiguous(tensors, data.size(), path);
  for (auto& tensor : tensors) entries_.push_back(std::move(tensor.second));
  for (size_t i = 0; i < entries_.size(); ++i) index_[entries_[i].name] = i;
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

}  // namespace train_sft
