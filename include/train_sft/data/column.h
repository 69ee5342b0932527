// The columns of a Dataset: immutable arrays that lie in memory or in a memory-mapped file,
// whichever it is. Copies are cheap and share what they look at. All indices are 64-bit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace train_sft {

template <typename T>
class Column {
 public:
  Column() = default;
  Column(std::vector<T> values) {
    auto held = std::make_shared<const std::vector<T>>(std::move(values));
    data_ = held->data();
    size_ = held->size();
    owner_ = std::move(held);
  }
  // size values at data, which lives as long as owner.
  Column(std::shared_ptr<const void> owner, const T* data, uint64_t size)
      : owner_(std::move(owner)), data_(data), size_(size) {}

  uint64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const T& operator[](uint64_t i) const { return data_[i]; }
  const T& back() const { return data_[size_ - 1]; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

 private:
  std::shared_ptr<const void> owner_;
  const T* data_ = nullptr;
  uint64_t size_ = 0;
};

// Token ids in 2 or 4 bytes each, from one or several pieces (shards) read as one.
class TokenColumn {
 public:
  TokenColumn() = default;
  TokenColumn(const std::vector<int32_t>& ids);

  // Appends `count` ids of `width` bytes (2 or 4) at data, which lives as long as owner. `name` is
  // what errors call the shard.
  void append(std::shared_ptr<const void> owner, const void* data, uint64_t count, int width,
              std::string name);
  // From here on copy() refuses ids of `vocab_size` and more.
  void limit_ids(int64_t vocab_size) { vocab_size_ = vocab_size; }

  uint64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int32_t operator[](uint64_t i) const;
  int32_t back() const { return (*this)[size_ - 1]; }
  // Ids [first, first + count) to out. Throws DataError naming shard and place for an id outside
  // the vocabulary, or a range outside the column: the file is damaged.
  void copy(uint64_t first, uint64_t count, int32_t* out) const;
  std::vector<int32_t> slice(uint64_t first, uint64_t end) const;
  std::vector<int32_t> all() const { return slice(0, size_); }

 private:
  struct Shard {
    std::shared_ptr<const void> owner;
    const void* data;
    uint64_t first, count;
    int width;
    std::string name;
  };
  const Shard& shard_of(uint64_t i) const;

  std::vector<Shard> shards_;
  uint64_t size_ = 0;
  int64_t vocab_size_ = 0;  // 0: not known
};

// A loss weight per token, held as runs of equal ones.
class WeightColumn {
 public:
  WeightColumn() = default;
  WeightColumn(const std::vector<float>& weights);
  // Run i ends before token ends[i] and has the weight values[i].
  WeightColumn(Column<uint64_t> ends, Column<float> values)
      : ends_(std::move(ends)), values_(std::move(values)) {}

  uint64_t size() const { return ends_.empty() ? 0 : ends_.back(); }
  bool empty() const { return ends_.empty(); }
  float operator[](uint64_t i) const;
  std::vector<float> all() const;
  // Calls visit(begin, end, weight) for the runs of [first, end), cut to it.
  template <typename Visit>
  void for_runs(uint64_t first, uint64_t end, Visit visit) const {
    if (first >= end) return;
    for (uint64_t run = run_of(first); first < end; ++run) {
      const uint64_t stop = run_end(run, first, end);
      visit(first, stop, values_[run]);
      first = stop;
    }
  }

 private:
  uint64_t run_of(uint64_t i) const;
  uint64_t run_end(uint64_t run, uint64_t first, uint64_t end) const;

  Column<uint64_t> ends_;
  Column<float> values_;
};

}  // namespace train_sft
