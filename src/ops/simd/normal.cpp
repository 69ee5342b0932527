// Normal numbers for initial weights: CounterRng::normal, operation for operation on 16 indices at
// once. Without fused multiply-adds (see cmake/OpsKernels.cmake) these give the same bits on every
// instruction set.
#include <cstring>

#include "ops/simd/fill.h"
#include "ops/simd/parallel.h"
#include "ops/simd/table.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kCost = 64;  // a number, in elements touched

struct Words {
  alignas(64) uint32_t w[4][kLanes];
};

// Philox4x32-10 of the counters (index + lane, stream). index is a multiple of kLanes.
TRAIN_SFT_INLINE Words philox(uint64_t index, const simd::RandomKey& key) {
  Words c;
  for (int i = 0; i < kLanes; ++i) {
    c.w[0][i] = static_cast<uint32_t>(index) + static_cast<uint32_t>(i);
    c.w[1][i] = static_cast<uint32_t>(index >> 32);
    c.w[2][i] = static_cast<uint32_t>(key.stream);
    c.w[3][i] = static_cast<uint32_t>(key.stream >> 32);
  }
  auto k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c.w[0][i];
      const uint64_t p1 = uint64_t{0xCD9E8D57} * c.w[2][i];
      c.w[0][i] = static_cast<uint32_t>(p1 >> 32) ^ c.w[1][i] ^ k0;
      c.w[1][i] = static_cast<uint32_t>(p1);
      c.w[2][i] = static_cast<uint32_t>(p0 >> 32) ^ c.w[3][i] ^ k1;
      c.w[3][i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// The upper 53 of the 64 bits.
TRAIN_SFT_INLINE double unit_interval(uint32_t low, uint32_t high) {
  return (static_cast<double>(high) * 0x1.0p21 + static_cast<double>(low >> 11)) * 0x1.0p-53;
}

TRAIN_SFT_INLINE double log_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const auto high = static_cast<uint32_t>(bits >> 32);
  auto exponent = static_cast<int32_t>(high >> 20) - 1022;
  bits = (bits & 0x000FFFFFFFFFFFFF) | 0x3FE0000000000000;  // [0.5, 1)
  double mantissa;
  std::memcpy(&mantissa, &bits, sizeof mantissa);
  const bool doubled = mantissa < 0.7071067811865476;
  mantissa = doubled ? mantissa * 2 : mantissa;
  exponent = doubled ? exponent - 1 : exponent;
  const double s = (mantissa - 1) / (mantissa + 1);
  const double s2 = s * s;
  double sum = 0;
#pragma GCC unroll 12
  for (int k = 23; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
  return 2 * s * sum + exponent * 0.6931471805599453;
}

TRAIN_SFT_INLINE double cos_turn(double u) {
  u = u > 0.5 ? 1 - u : u;
  const bool back = u > 0.25;
  const double sign = back ? -1 : 1;
  u = back ? 0.5 - u : u;
  const bool as_sine = u > 0.125;
  const double x = 6.283185307179586 * (as_sine ? 0.25 - u : u);
  const double x2 = x * x;
  double sum = 1;
#pragma GCC unroll 9
  for (int k = 18; k >= 2; k -= 2)
    sum = 1 - sum * x2 / (as_sine ? double((k + 1) * k) : double(k * (k - 1)));
  return sign * (as_sine ? sum * x : sum);
}

void normal(float* out, int64_t count, double deviation, simd::RandomKey key) {
  parallel_shares(count, kLanes, threads_for(count * kCost),
                  [&](int64_t begin, int64_t end, int64_t) {
                    for (int64_t first = begin; first < end; first += kLanes) {
                      const Words c = philox(static_cast<uint64_t>(first), key);
                      alignas(64) double u[kLanes], v[kLanes];
                      alignas(64) float values[kLanes];
                      for (int i = 0; i < kLanes; ++i)
                        u[i] = -2 * log_of(1 - unit_interval(c.w[0][i], c.w[1][i]));
                      for (int i = 0; i < kLanes; ++i)
                        v[i] = cos_turn(unit_interval(c.w[2][i], c.w[3][i]));
                      for (int i = 0; i < kLanes; ++i)
                        values[i] = static_cast<float>(deviation * (__builtin_sqrt(u[i]) * v[i]));
                      const int64_t n = end - first < kLanes ? end - first : kLanes;
                      std::memcpy(out + first, values, static_cast<size_t>(n) * sizeof(float));
                    }
                  });
}

}  // namespace

void fill_normal(simd::Table& table) {
  table.normal = &normal;
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
