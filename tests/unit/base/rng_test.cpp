#include "train_sft/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace train_sft {
namespace {

// Known answers published with Random123 (kat_vectors, philox4x32 10).
TEST(PhiloxTest, MatchesPublishedVectors) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(philox4x32({f, f, f, f}, {f, f}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterRngTest, StreamsAndSeedsDiffer) {
  EXPECT_NE(CounterRng(1, 0).bits(0), CounterRng(1, 1).bits(0));
  EXPECT_NE(CounterRng(1, 0).bits(0), CounterRng(2, 0).bits(0));
  EXPECT_EQ(CounterRng(1, 7).bits(5), CounterRng(1, 7).bits(5));
}

TEST(CounterRngTest, UniformFillsTheUnitInterval) {
  const CounterRng rng(3, 1);
  constexpr int n = 100000;
  std::vector<int> bins(10);
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bins[static_cast<size_t>(u * 10)];
  }
  for (const int count : bins) EXPECT_NEAR(count, n / 10, 5 * std::sqrt(n * 0.09));
}

TEST(CounterRngTest, NormalHasTheMomentsOfANormal) {
  const CounterRng rng(11, 4);
  constexpr int n = 200000;
  double sum = 0, square = 0, fourth = 0;
  int beyond_two = 0;
  for (int i = 0; i < n; ++i) {
    const double x = rng.normal(i);
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    square += x * x;
    fourth += x * x * x * x;
    beyond_two += std::abs(x) > 2;
  }
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(square / n, 1, 0.02);
  EXPECT_NEAR(fourth / n, 3, 0.1);
  EXPECT_NEAR(beyond_two / static_cast<double>(n), 0.0455, 0.002);
}

// normal() uses its own log and cos so that weights agree between machines; here they are held
// against the C library's.
TEST(CounterRngTest, NormalAgreesWithTheCLibrary) {
  const CounterRng rng(5, 9);
  for (uint64_t i = 0; i < 20000; ++i) {
    const auto w = philox4x32({static_cast<uint32_t>(i), 0, 9, 0}, {5, 0});
    const auto unit = [](uint32_t low, uint32_t high) {
      return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1.0p-53;
    };
    const double expected =
        std::sqrt(-2 * std::log(1 - unit(w[0], w[1]))) * std::cos(2 * M_PI * unit(w[2], w[3]));
    ASSERT_NEAR(rng.normal(i), expected, 1e-13) << "index " << i;
  }
}

TEST(IndexPermutationTest, EveryIndexOnce) {
  for (const uint64_t size : {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 968, 1000, 4097, 65536, 75000}) {
    const IndexPermutation permutation(size, 42, 3);
    std::vector<bool> seen(size);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t j = permutation(i);
      ASSERT_LT(j, size);
      ASSERT_FALSE(seen[j]) << "size " << size << ": " << j << " twice";
      seen[j] = true;
    }
  }
}

TEST(IndexPermutationTest, EpochsAreShuffledDifferently) {
  const IndexPermutation first(1000, 42, 0), second(1000, 42, 1), again(1000, 42, 0);
  int same = 0, fixed = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    same += first(i) == second(i);
    fixed += first(i) == i;
    ASSERT_EQ(first(i), again(i));
  }
  EXPECT_LT(same, 10);
  EXPECT_LT(fixed, 10);
}

TEST(IndexPermutationTest, NeighboursAreNotCorrelated) {
  const uint64_t n = 20000;
  const IndexPermutation permutation(n, 1, 0);
  double sum = 0;
  for (uint64_t i = 0; i + 1 < n; ++i) {
    sum += (static_cast<double>(permutation(i)) / n - 0.5) *
           (static_cast<double>(permutation(i + 1)) / n - 0.5);
  }
  EXPECT_NEAR(sum / n * 12, 0, 0.03);
}

TEST(IndexPermutationTest, WorksNearTheTopOfTheRange) {
  const uint64_t huge = (uint64_t{1} << 62) + 12345;
  const IndexPermutation permutation(huge, 1, 0);
  EXPECT_LT(permutation(huge - 1), huge);
  EXPECT_NE(permutation(0), permutation(1));
}

}  // namespace
}  // namespace train_sft
