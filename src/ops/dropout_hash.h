// The hash behind dropout masks: the reference, the vector kernels and those of CUDA compute the same
// bits.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TRAIN_SFT_DEVICE __host__ __device__
#else
#define TRAIN_SFT_DEVICE
#endif

namespace train_sft::ops {
namespace {  // of its own in each file: kernel files are compiled for several instruction sets

constexpr uint32_t kDropoutWeyl = 0x9E3779B9u;
constexpr uint32_t kDropoutMultiplier1 = 0x7FEB352Du;
constexpr uint32_t kDropoutMultiplier2 = 0x846CA68Bu;

// SplitMix64's finaliser.
[[maybe_unused]] TRAIN_SFT_DEVICE uint64_t mix_dropout_key(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A row's and site's key, split in halves: `low` enters before the first round of the mixing below,
// `high` between the rounds.
struct DropoutSiteKey {
  uint32_t low, high;
};

[[maybe_unused]] TRAIN_SFT_DEVICE DropoutSiteKey dropout_site_key(uint64_t row_key, uint32_t site) {
  const uint64_t x = mix_dropout_key(row_key + (uint64_t{site} + 1) * 0x9E3779B97F4A7C15u);
  return {static_cast<uint32_t>(x), static_cast<uint32_t>(x >> 32)};
}

// 24 uniform bits of a channel: two multiply-xorshift rounds over a Weyl sequence.
[[maybe_unused]] TRAIN_SFT_DEVICE uint32_t dropout_bits(DropoutSiteKey key, uint32_t channel) {
  uint32_t h = channel * kDropoutWeyl + key.low;
  h = (h ^ (h >> 16)) * kDropoutMultiplier1;
  h = ((h ^ (h >> 15)) + key.high) * kDropoutMultiplier2;
  return (h ^ (h >> 16)) >> 8;
}

// A channel is kept when its bits reach this.
[[maybe_unused]] TRAIN_SFT_DEVICE uint32_t dropout_threshold(double p) {
  return static_cast<uint32_t>(p * (1u << 24) + 0.5);
}

}  // namespace
}  // namespace train_sft::ops
