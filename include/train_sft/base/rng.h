// Counter-based random numbers: a value is a pure function of (seed, stream, index), so order and
// initialisation do not depend on threads, ranks or history, and there is no state to save.
// Philox4x32-10 follows Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace train_sft {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// SplitMix64's finaliser: a bijection with full avalanche.
uint64_t mix64(uint64_t x);
uint64_t hash_string(std::string_view text);  // XXH3, stable across machines

class CounterRng {
 public:
  CounterRng(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  uint64_t bits(uint64_t index) const;
  double uniform(uint64_t index) const;  // [0, 1), 53 bits
  double normal(uint64_t index) const;   // Box-Muller on bits(index)
  uint64_t seed() const { return seed_; }
  uint64_t stream() const { return stream_; }

 private:
  uint64_t seed_;
  uint64_t stream_;
};

// A bijection of [0, size) in O(1) memory: a Feistel network over the next power of four with
// cycle walking. permutation(i) is the element at place i of the shuffled order.
class IndexPermutation {
 public:
  IndexPermutation(uint64_t size, uint64_t seed, uint64_t stream);
  uint64_t operator()(uint64_t index) const;
  uint64_t size() const { return size_; }

 private:
  uint64_t size_;
  unsigned half_bits_;
  std::array<uint64_t, 6> keys_;
};

}  // namespace train_sft
