// Token-by-token generation with a KV cache, and sampling.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "train_sft/model/parameters.h"

namespace train_sft {

struct SamplingOptions {
  double temperature = 0.8;  // 0: greedy
  int64_t top_k = 50;        // 0: off
  double top_p = 0.95;       // 1: off
  int64_t max_new_tokens = 256;
  uint64_t seed = 0;
};

// One sequence. Computes in parameters.compute()'s dtype; keeps a reference to parameters and its
// own KV cache of block_size positions.
class Decoder {
 public:
  explicit Decoder(Parameters& parameters);
  ~Decoder();
  // Feeds tokens (at least one, at most what is left of the context) and returns the logits [vocab]
  // after the last. They are overwritten by the next call.
  const std::vector<float>& append(std::span<const int32_t> tokens);
  const std::vector<int32_t>& tokens() const;  // fed so far
  int64_t length() const;
  int64_t capacity() const;  // block_size
  void clear();
  // Keeps the first n tokens, so that a conversation's shared prefix is not computed again.
  void truncate(int64_t n);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Draws from logits: temperature, then top_k, then top_p (Holtzman et al. 2020) of what is left.
// The i-th draw of a seed is a pure function of (seed, i, logits); equal logits go to the lower id.
// Throws DivergedError when a logit is NaN or none is finite.
int32_t sample(std::span<const float> logits, const SamplingOptions& options, uint64_t draw);

// Feeds `prompt` (at least one token) after what the decoder holds (clear() or truncate() it first
// as needed), then generates until a stop id, max_new_tokens, a full context or a stop signal;
// on_token (may be empty) sees each id as it comes. Returns the new ids without the stop id. The
// last of them may not have been fed: tokens() says what was. Throws UsageError when the prompt
// does not fit.
std::vector<int32_t> generate(Decoder& decoder, const std::vector<int32_t>& prompt,
                              const std::vector<int32_t>& stop_ids, const SamplingOptions& options,
                              const std::function<void(int32_t)>& on_token = {});

}  // namespace train_sft
