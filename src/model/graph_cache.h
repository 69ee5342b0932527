// Work of fixed shapes as captured graphs of a device: replaying one costs a launch, not hundreds.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/padding.h"
#include "train_sft/ops/device_table.h"

namespace train_sft {

// What decides which kernels run, and with which numbers.
struct GraphKey {
  PaddedShape shape;  // of a micro-batch; none: of the update
  uint32_t mode = 0;  // of the caller: training, evaluation, the update …
  bool operator==(const GraphKey&) const = default;
};

// A key's first work runs as it is (libraries then allocate what they need), its second is captured
// and replayed, and so are all after it. What cannot be captured or replayed runs as it is from
// then on; a device that has refused often is not asked again. Of many keys those used last are
// kept.
class GraphCache {
 public:
  static constexpr size_t kMostGraphs = 48;
  static constexpr int kMostFailures = 8;

  explicit GraphCache(const ops::DeviceTable* device, size_t most = kMostGraphs);
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // `work` calls only ops of the table, with the same arguments whenever the key is the same. What
  // it throws when it runs as it is comes out; a capture or replay that fails is not an error.
  void run(const GraphKey& key, const std::function<void()>& work);
  // Forgets all: what the graphs point to has moved.
  void clear();

  size_t graphs() const;
  int failures() const { return failures_; }
  bool enabled() const { return failures_ < kMostFailures && device_->graph_begin != nullptr; }

 private:
  struct Entry {
    GraphKey key;
    void* graph = nullptr;
    bool failed = false;
    uint64_t used = 0;
  };
  Entry* find(const GraphKey& key);
  Entry& add(const GraphKey& key);
  void* capture(const std::function<void()>& work);
  bool replay(Entry& entry);
  void fail(Entry& entry, const char* what, const char* why);
  void drop(Entry& entry);

  const ops::DeviceTable* device_;
  size_t most_;
  uint64_t clock_ = 0;
  int failures_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace train_sft
