#include "parts.h"

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/rng.h"

namespace train_sft {
namespace {

constexpr uint64_t kPartMagic = 0x31747261706b6f74;  // "tokpart1"

struct PartHeader {
  uint64_t magic = kPartMagic;
  uint64_t checksum = 0;  // XXH3-64 of all that follows
  uint64_t input_hash = 0;
  uint64_t pieces = 0, tokens = 0, runs = 0, unknown_bytes = 0;
  uint64_t token_bytes = 0;
};
constexpr size_t kPartUnchecked = 2 * sizeof(uint64_t);

uint64_t checksum_of_rest(std::span<const std::byte> bytes) {
  const auto rest = bytes.subspan(kPartUnchecked);
  return hash_string({reinterpret_cast<const char*>(rest.data()), rest.size()});
}

// Takes arrays off the front; each begins at a multiple of 8.
class Cutter {
 public:
  Cutter(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}
  template <typename T>
  std::span<const T> take(uint64_t count) {
    const uint64_t left = bytes_.size() - at_;
    if (count > left / sizeof(T)) throw DataError("{}: the part is cut short", where_);
    const std::span<const T> values(reinterpret_cast<const T*>(bytes_.data() + at_), count);
    at_ = std::min<uint64_t>((at_ + count * sizeof(T) + 7) / 8 * 8, bytes_.size());
    return values;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
  uint64_t at_ = 0;
};

template <typename T>
void append(std::vector<std::byte>& out, std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
  out.resize((out.size() + 7) / 8 * 8);
}

}  // namespace

void PartWriter::add_tokens(const std::vector<int32_t>& ids) {
  if (token_bytes_ == 4) {
    wide_.insert(wide_.end(), ids.begin(), ids.end());
    return;
  }
  for (const int32_t id : ids) {
    TRAIN_SFT_CHECK(id >= 0 && id <= 0xFFFF, "id {} in two bytes", id);
    narrow_.push_back(static_cast<uint16_t>(id));
  }
}

void PartWriter::add_weights(const std::vector<float>& weights) {
  for (const float weight : weights) {
    if (runs_.empty() || runs_.back().weight != weight || runs_.back().tokens > (1U << 30)) {
      runs_.push_back({0, weight});
    }
    ++runs_.back().tokens;
  }
}

void PartWriter::end_piece(Piece piece) {
  const uint64_t end = narrow_.size() + wide_.size();
  piece.tokens = end - piece_begin_;
  piece_begin_ = end;
  pieces_.push_back(piece);
}

void PartWriter::add_unknown_vars(const Placeholders& names) {
  for (const auto& [name, count] : names) unknown_ += fmt::format("{} {}\n", name, count);
}

std::vector<std::byte> PartWriter::finish(uint64_t input_hash) const {
  PartHeader header;
  header.input_hash = input_hash;
  header.pieces = pieces_.size();
  header.tokens = narrow_.size() + wide_.size();
  header.runs = runs_.size();
  header.unknown_bytes = unknown_.size();
  header.token_bytes = static_cast<uint64_t>(token_bytes_);
  std::vector<std::byte> out;
  append(out, std::span<const PartHeader>(&header, 1));
  append(out, std::span<const Piece>(pieces_));
  append(out, std::span<const uint16_t>(narrow_));
  append(out, std::span<const int32_t>(wide_));
  append(out, std::span<const LossWeightRun>(runs_));
  append(out, std::span<const char>(unknown_));
  header.checksum = checksum_of_rest(out);
  std::memcpy(out.data(), &header, sizeof header);
  return out;
}

Part::Part(std::shared_ptr<const void> owner, std::span<const std::byte> bytes,
           const std::string& where, bool check)
    : owner_(std::move(owner)) {
  Cutter cutter(bytes, where);
  const PartHeader header = cutter.take<PartHeader>(1)[0];
  if (header.magic != kPartMagic || (check && header.checksum != checksum_of_rest(bytes)) ||
      (header.token_bytes != 2 && header.token_bytes != 4)) {
    throw DataError("{}: is not a whole part", where);
  }
  input_hash_ = header.input_hash;
  pieces_ = cutter.take<Piece>(header.pieces);
  if (header.token_bytes == 2) {
    narrow_ = cutter.take<uint16_t>(header.tokens);
  } else {
    wide_ = cutter.take<int32_t>(header.tokens);
  }
  runs_ = cutter.take<LossWeightRun>(header.runs);
  const auto names = cutter.take<char>(header.unknown_bytes);
  unknown_ = {names.data(), names.size()};
}

Placeholders Part::unknown_vars() const {
  Placeholders names;
  std::istringstream lines{std::string(unknown_)};
  uint64_t count = 0;
  for (std::string name; lines >> name >> count;) names[name] += count;
  return names;
}

void Part::add_to_document(DatasetBuilder& builder, uint64_t first, uint64_t count) const {
  if (wide_.empty()) {
    builder.add_to_document(narrow_.subspan(first, count));
  } else {
    builder.add_to_document(wide_.subspan(first, count));
  }
}

RenderedRecord Part::record(uint64_t first, uint64_t count, RunCursor& cursor) const {
  RenderedRecord rendered;
  if (wide_.empty()) {
    const auto ids = narrow_.subspan(first, count);
    rendered.ids.assign(ids.begin(), ids.end());
  } else {
    const auto ids = wide_.subspan(first, count);
    rendered.ids.assign(ids.begin(), ids.end());
  }
  if (runs_.empty()) return rendered;
  rendered.weights.reserve(count);
  while (rendered.weights.size() < count) {
    const LossWeightRun& run = runs_[cursor.run];
    const auto part = std::min<uint64_t>(run.tokens - cursor.used, count - rendered.weights.size());
    rendered.weights.insert(rendered.weights.end(), part, run.weight);
    cursor.used += static_cast<uint32_t>(part);
    if (cursor.used == run.tokens) cursor = {cursor.run + 1, 0};
  }
  return rendered;
}

std::string PartStore::path(uint64_t number) const {
  return join_path(directory_, fmt::format("{:08}.part", number));
}

bool PartStore::has(uint64_t number, uint64_t input_hash) const {
  if (directory_.empty() || !path_exists(path(number))) return false;
  try {
    const auto file = std::make_shared<const MappedFile>(path(number));
    return Part(file, file->bytes(), path(number), true).input_hash() == input_hash;
  } catch (const DataError&) {
    return false;  // half a part: made again
  }
}

void PartStore::put(uint64_t number, std::vector<std::byte> bytes) {
  if (!directory_.empty()) {
    // Neither synced nor renamed: has() sees by the checksum whether all of it is there.
    FileWriter file(path(number), FileWriter::Mode::truncate);
    file.write(bytes);
    file.close();
    return;
  }
  auto held = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  const std::lock_guard lock(mutex_);
  if (memory_.size() <= number) memory_.resize(number + 1);
  memory_[number] = std::move(held);
}

Part PartStore::get(uint64_t number) const {
  if (!directory_.empty()) {
    const std::string name = path(number);
    auto file = std::make_shared<const MappedFile>(name);
    const auto bytes = file->bytes();
    return {std::move(file), bytes, name, false};
  }
  const std::lock_guard lock(mutex_);
  const auto& held = memory_.at(number);
  return {held, *held, "part in memory", false};
}

}  // namespace train_sft
