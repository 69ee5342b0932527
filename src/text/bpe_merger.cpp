#include "bpe_merger.h"

#include <bit>
#include <queue>
#include <utility>

namespace train_sft {
MergeTable::MergeTable(size_t merges) {
  const size_t size = std::bit_ceil(2 * merges + 2);
  slots_.resize(size);
  mask_ = size - 1;
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(size));
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = key_of(left, right);
  size_t i = place_of(key);
  while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask_;
  slots_[i] = {key, merge};
}

void BpeMerger::append(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.size() <= kScanBytes) {
    merge_by_scan(piece, ids);
  } else {
    merge_by_heap(piece, ids);
  }
}

void BpeMerger::merge_by_scan(std::string_view piece, std::vector<int32_t>& ids) const {
  int32_t symbols[kScanBytes];
  Merge merges[kScanBytes];  // of symbols i and i + 1
  size_t count = 0;
  for (const char byte : piece) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id >= 0) symbols[count++] = id;
  }
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = merges_.find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].id < 0) break;
    symbols[best] = merges[best].id;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i - 1] = merges[i];
    }
    if (best > 0) merges[best - 1] = merges_.find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) merges[best] = merges_.find(symbols[best], symbols[best + 1]);
  }
  ids.insert(ids.end(), symbols, symbols + count);
}

void BpeMerger::merge_by_heap(std::string_view piece, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;  // -1: gone into its left neighbour
    uint32_t previous, next;
  };
  struct Candidate {
    uint32_t rank, at;  // of the left symbol
    int32_t right_id, id;
    bool operator>(const Candidate& other) const {
      return std::pair(rank, at) > std::pair(other.rank, other.at);
    }
  };
  constexpr uint32_t kNone = UINT32_MAX;
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (const char byte : piece) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    const auto at = static_cast<uint32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, at - 1, at + 1});  // 0 - 1 is kNone
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;
  std::vector<Candidate> storage;
  storage.reserve(symbols.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(storage));
  const auto consider = [&](uint32_t left) {
    const uint32_t right = symbols[left].next;
    if (right == kNone) return;
    const Merge merge = merges_.find(symbols[left].id, symbols[right].id);
    if (merge.id >= 0) queue.push({merge.rank, left, symbols[right].id, merge.id});
  };
  for (uint32_t i = 0; i < symbols.size(); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.at];
    if (left.id < 0 || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    // What was there when the candidate was noted may have merged otherwise since.
    if (right.id != best.right_id || merges_.find(left.id, right.id).rank != best.rank) continue;
    left.id = best.id;
    right.id = -1;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = best.at;
    if (left.previous != kNone) consider(left.previous);
    consider(best.at);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

}  // namespace train_sft
