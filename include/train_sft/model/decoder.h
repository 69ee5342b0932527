// Token-by-token generation with a KV cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "train_sft/model/parameters.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

struct SamplingOptions {
  double temperature = 0.8;  // 0: greedy
  int64_t top_k = 50;        // 0: off
  double top_p = 0.95;       // 1: off
  int64_t max_new_tokens = 256;
  uint64_t seed = 0;
};

// One sequence. append() feeds tokens and returns the logits of the last as floats [vocab].
class Decoder {
 public:
  explicit Decoder(Parameters& parameters);
  ~Decoder();
  const std::vector<float>& append(const std::vector<int32_t>& tokens);
  int64_t length() const;
  int64_t capacity() const;  // block_size
  void clear();
  // Keeps the first n tokens, so that a conversation's shared prefix is not computed again.
  void truncate(int64_t n);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Draws from logits. The i-th draw of a seed is a pure function of (seed, i, logits).
int32_t sample(const std::vector<float>& logits, const SamplingOptions& options, uint64_t draw);

// Generates until a stop id, max_new_tokens, a full context or a stop signal; on_token may be
// empty. Returns the new ids without the stop id.
std::vector<int32_t> generate(Decoder& decoder, const std::vector<int32_t>& prompt,
                              const std::vector<int32_t>& stop_ids, const SamplingOptions& options,
                              const std::function<void(int32_t)>& on_token = {});

}  // namespace train_sft
