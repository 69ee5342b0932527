#include "train_sft/base/rng.h"

#include <xxhash.h>

#include <bit>
#include <cmath>

namespace train_sft {
namespace {

double unit_interval(uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

uint64_t join(uint32_t low, uint32_t high) {
  return uint64_t{high} << 32 | low;
}

// log and cos from + − × ÷ alone, which IEEE 754 defines to the bit: the C library's versions
// differ between releases and processors, and initial weights must not. Errors are below 1e-15.
double portable_log(double x) {
  int exponent;
  double mantissa = std::frexp(x, &exponent);  // [0.5, 1)
  if (mantissa < 0.7071067811865476) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);  // log m = 2 atanh s, |s| < 0.1716
  const double s2 = s * s;
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
  return 2 * s * sum + exponent * 0.6931471805599453;
}

// cos(2πu) for u in [0, 1), by folding to an eighth of a turn and Taylor's series.
double portable_cos_turn(double u) {
  if (u > 0.5) u = 1 - u;
  double sign = 1;
  if (u > 0.25) {
    u = 0.5 - u;
    sign = -1;
  }
  constexpr double two_pi = 6.283185307179586;
  const bool as_sine = u > 0.125;
  const double x = two_pi * (as_sine ? 0.25 - u : u);
  const double x2 = x * x;
  double sum = 1;
  for (int k = 18; k >= 2; k -= 2) {
    const int n = as_sine ? k + 1 : k;
    sum = 1 - sum * x2 / (n * (n - 1));
  }
  return sign * (as_sine ? sum * x : sum);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c;
}

uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint64_t hash_string(std::string_view text) {
  return XXH3_64bits(text.data(), text.size());
}

static std::array<uint32_t, 4> block(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                     static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

uint64_t CounterRng::bits(uint64_t index) const {
  const auto words = block(seed_, stream_, index);
  return join(words[0], words[1]);
}

double CounterRng::uniform(uint64_t index) const {
  return unit_interval(bits(index));
}

double CounterRng::normal(uint64_t index) const {
  const auto words = block(seed_, stream_, index);
  const double u = 1 - unit_interval(join(words[0], words[1]));  // (0, 1]
  const double v = unit_interval(join(words[2], words[3]));
  return std::sqrt(-2 * portable_log(u)) * portable_cos_turn(v);
}

IndexPermutation::IndexPermutation(uint64_t size, uint64_t seed, uint64_t stream)
    : size_(size), half_bits_(1) {
  const unsigned bits = size > 1 ? static_cast<unsigned>(std::bit_width(size - 1)) : 1;
  half_bits_ = (bits + 1) / 2;
  const CounterRng rng(seed, stream);
  for (size_t round = 0; round < keys_.size(); ++round) keys_[round] = rng.bits(round);
}

uint64_t IndexPermutation::operator()(uint64_t index) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  // The network permutes [0, 4^half_bits); walking its cycle until back inside [0, size) keeps it a
  // bijection there. The domain is less than 4 × size, so the walk is short.
  do {
    uint64_t left = index >> half_bits_;
    uint64_t right = index & mask;
    for (const uint64_t key : keys_) {
      const uint64_t next = left ^ (mix64(right + key) & mask);
      left = right;
      right = next;
    }
    index = left << half_bits_ | right;
  } while (index >= size_);
  return index;
}

}  // namespace train_sft
