#include "train_sft/data/column.h"

#include <algorithm>
#include <cstring>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

// 2-byte ids count from 0; of 4 bytes the sign is refused with the rest that is no id.
template <typename T>
uint32_t widen(const T* from, uint64_t count, int32_t* out) {
  uint32_t largest = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const auto id = static_cast<uint32_t>(from[i]);
    largest = std::max(largest, id);
    out[i] = static_cast<int32_t>(id);
  }
  return largest;
}

}  // namespace

TokenColumn::TokenColumn(const std::vector<int32_t>& ids) {
  auto held = std::make_shared<const std::vector<int32_t>>(ids);
  const void* data = held->data();
  append(std::move(held), data, ids.size(), 4, "memory");
}

void TokenColumn::append(std::shared_ptr<const void> owner, const void* data, uint64_t count,
                         int width, std::string name) {
  TRAIN_SFT_CHECK(width == 2 || width == 4, "ids of {} bytes", width);
  if (count == 0) return;
  shards_.push_back({std::move(owner), data, size_, count, width, std::move(name)});
  size_ += count;
}

const TokenColumn::Shard& TokenColumn::shard_of(uint64_t i) const {
  TRAIN_SFT_CHECK(i < size_, "token {} of {}", i, size_);
  if (i < shards_.front().count) return shards_.front();
  const auto next = std::upper_bound(shards_.begin(), shards_.end(), i,
                                     [](uint64_t at, const Shard& s) { return at < s.first; });
  return *(next - 1);
}

int32_t TokenColumn::operator[](uint64_t i) const {
  const Shard& shard = shard_of(i);
  return shard.width == 2 ? static_cast<const uint16_t*>(shard.data)[i - shard.first]
                          : static_cast<const int32_t*>(shard.data)[i - shard.first];
}

void TokenColumn::copy(uint64_t first, uint64_t count, int32_t* out) const {
  if (first > size_ || count > size_ - first) {
    throw DataError("{}: tokens {} to {} are asked for, it holds {}: the file is damaged",
                    shards_.empty() ? "the data" : shards_.front().name, first, first + count,
                    size_);
  }
  while (count > 0) {
    const Shard& shard = shard_of(first);
    const uint64_t at = first - shard.first;
    const uint64_t part = std::min(count, shard.count - at);
    const uint32_t largest = shard.width == 2
                                 ? widen(static_cast<const uint16_t*>(shard.data) + at, part, out)
                                 : widen(static_cast<const uint32_t*>(shard.data) + at, part, out);
    if (vocab_size_ > 0 && static_cast<int64_t>(largest) >= vocab_size_) {
      const auto bad = std::find(out, out + part, static_cast<int32_t>(largest)) - out;
      throw DataError(
          "{}: token {} is id {}, the vocabulary has {}: the file is damaged or was "
          "made with another tokenizer",
          shard.name, at + static_cast<uint64_t>(bad), largest, vocab_size_);
    }
    out += part;
    first += part;
    count -= part;
  }
}

std::vector<int32_t> TokenColumn::slice(uint64_t first, uint64_t end) const {
  std::vector<int32_t> ids(end - first);
  copy(first, ids.size(), ids.data());
  return ids;
}

WeightColumn::WeightColumn(const std::vector<float>& weights) {
  std::vector<uint64_t> ends;
  std::vector<float> values;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (values.empty() || values.back() != weights[i]) {
      ends.push_back(i);
      values.push_back(weights[i]);
    }
    ++ends.back();
  }
  ends_ = Column(std::move(ends));
  values_ = Column(std::move(values));
}

uint64_t WeightColumn::run_of(uint64_t i) const {
  return static_cast<uint64_t>(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin());
}

float WeightColumn::operator[](uint64_t i) const {
  const uint64_t run = run_of(i);
  run_end(run, i, i + 1);
  return values_[run];
}

std::vector<float> WeightColumn::all() const {
  std::vector<float> weights;
  for_runs(0, size(), [&](uint64_t first, uint64_t end, float weight) {
    weights.insert(weights.end(), end - first, weight);
  });
  return weights;
}

uint64_t WeightColumn::run_end(uint64_t run, uint64_t first, uint64_t end) const {
  if (run >= ends_.size() || run >= values_.size() || ends_[run] <= first) {
    throw DataError("token {} has no loss weight: the token cache is damaged; delete it", first);
  }
  return std::min(ends_[run], end);
}

}  // namespace train_sft
