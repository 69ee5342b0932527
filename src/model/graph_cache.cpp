#include "model/graph_cache.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "train_sft/base/error.h"
#include "train_sft/base/log.h"

namespace train_sft {

GraphCache::GraphCache(const ops::DeviceTable* device, size_t most) : device_(device), most_(most) {
  TRAIN_SFT_CHECK(device != nullptr && most > 0, "a cache of {} graphs", most);
}

GraphCache::~GraphCache() {
  clear();
}

void GraphCache::run(const GraphKey& key, const std::function<void()>& work) {
  if (!enabled()) return work();
  Entry* entry = find(key);
  if (entry == nullptr) {
    work();
    add(key).used = ++clock_;  // after it went well
    return;
  }
  entry->used = ++clock_;
  if (entry->failed) return work();
  if (entry->graph == nullptr) {
    try {
      entry->graph = capture(work);
    } catch (const c10::Error& error) {
      fail(*entry, "captured", error.what_without_backtrace());
      return work();
    }
  }
  if (!replay(*entry)) work();
}

GraphCache::Entry* GraphCache::find(const GraphKey& key) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.key == key; });
  return found == entries_.end() ? nullptr : &*found;
}

GraphCache::Entry& GraphCache::add(const GraphKey& key) {
  if (entries_.size() < most_) return entries_.emplace_back(Entry{key});
  Entry& oldest = *std::min_element(entries_.begin(), entries_.end(),
                                    [](const Entry& a, const Entry& b) { return a.used < b.used; });
  drop(oldest);
  oldest = Entry{key};
  return oldest;
}

// Nothing runs during a capture, so that a failed one can be followed by the work itself.
void* GraphCache::capture(const std::function<void()>& work) {
  device_->graph_begin();
  try {
    work();
    return device_->graph_end();
  } catch (...) {
    device_->graph_abort();
    throw;
  }
}

bool GraphCache::replay(Entry& entry) {
  try {
    device_->graph_replay(entry.graph);
    return true;
  } catch (const c10::Error& error) {  // it was not launched
    drop(entry);
    fail(entry, "replayed", error.what_without_backtrace());
    return false;
  }
}

void GraphCache::fail(Entry& entry, const char* what, const char* why) {
  entry.failed = true;
  ++failures_;
  const int64_t tokens = entry.key.shape.tokens;
  log::warning("{} cannot be {} as a graph and runs without: {}{}",
               tokens > 0 ? fmt::format("a micro-batch of {} tokens", tokens) : "the update", what,
               why, enabled() ? "" : "; no graphs are tried from here on");
  if (!enabled()) clear();
}

void GraphCache::drop(Entry& entry) {
  if (entry.graph != nullptr) device_->graph_destroy(entry.graph);
  entry.graph = nullptr;
}

void GraphCache::clear() {
  for (Entry& entry : entries_) drop(entry);
  entries_.clear();
}

size_t GraphCache::graphs() const {
  return static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(),
                                           [](const Entry& e) { return e.graph != nullptr; }));
}

}  // namespace train_sft
