// What the engine consumes: a flat micro-batch of real tokens, no padding.
#pragma once

#include <cstdint>
#include <vector>

namespace train_sft {

inline constexpr int32_t kNoTarget = -1;

// N tokens of D documents, one after another. Documents never attend to each other.
struct Batch {
  std::vector<int32_t> tokens;      // [N]
  std::vector<int32_t> targets;     // [N] the next token of the same document; kNoTarget at its end
  std::vector<int32_t> positions;   // [N] restart at 0 at each document
  std::vector<int32_t> cu_seqlens;  // [D+1] first token of each document, then N
  std::vector<uint64_t> example_ids;  // [D] keys of dropout; unique within a step
  std::vector<int32_t> learned;       // [L] ascending indices whose target is learned
  std::vector<float> weights;         // [L] or empty when all are 1
  int32_t max_seqlen = 0;
  int64_t rows = 0;  // rows of the plan in this micro-batch

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t documents() const { return static_cast<int64_t>(example_ids.size()); }
  double weight_sum() const;  // of the learned targets
};

}  // namespace train_sft
