#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "train_sft/base/error.h"
#include "train_sft/model/decoder.h"

namespace train_sft {
namespace {

SamplingOptions options(double temperature, int64_t top_k, double top_p, uint64_t seed = 1) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.seed = seed;
  return options;
}

std::map<int32_t, double> frequencies(const std::vector<float>& logits,
                                      const SamplingOptions& options, int draws = 40000) {
  std::map<int32_t, double> found;
  for (int i = 0; i < draws; ++i)
    found[sample(logits, options, static_cast<uint64_t>(i))] += 1.0 / draws;
  return found;
}

// Probabilities 0.5, 0.25, 0.15, 0.1 at ids 3, 0, 2, 1.
const std::vector<float> kLogits = {std::log(0.25F), std::log(0.1F), std::log(0.15F),
                                    std::log(0.5F)};

TEST(SamplingTest, FollowsTheSoftmax) {
  auto found = frequencies(kLogits, options(1.0, 0, 1.0));
  EXPECT_NEAR(found[3], 0.5, 0.01);
  EXPECT_NEAR(found[0], 0.25, 0.01);
  EXPECT_NEAR(found[2], 0.15, 0.01);
  EXPECT_NEAR(found[1], 0.1, 0.01);
}

TEST(SamplingTest, TemperatureSharpens) {
  auto found = frequencies(kLogits, options(0.5, 0, 1.0));
  const double total = 0.25 + 0.0625 + 0.0225 + 0.01;
  EXPECT_NEAR(found[3], 0.25 / total, 0.01);
  EXPECT_NEAR(found[1], 0.01 / total, 0.01);
}

TEST(SamplingTest, TopKKeepsTheLikeliest) {
  auto found = frequencies(kLogits, options(1.0, 2, 1.0));
  EXPECT_EQ(found.size(), 2U);
  EXPECT_NEAR(found[3], 2.0 / 3, 0.01);
  EXPECT_NEAR(found[0], 1.0 / 3, 0.01);
}

TEST(SamplingTest, TopPKeepsTheOneThatCrosses) {
  EXPECT_EQ(frequencies(kLogits, options(1.0, 0, 0.45)).size(), 1U);
  auto found = frequencies(kLogits, options(1.0, 0, 0.7));
  EXPECT_EQ(found.size(), 2U);
  EXPECT_NEAR(found[3], 2.0 / 3, 0.01);
  // Of what top_k left: two of three reach 0.8 of 0.9.
  EXPECT_EQ(frequencies(kLogits, options(1.0, 3, 0.8)).size(), 2U);
}

TEST(SamplingTest, GreedyTakesTheLowestOfEqualIds) {
  EXPECT_EQ(sample(std::vector<float>{1, 5, 5, 2}, options(0, 50, 0.9), 0), 1);
}

TEST(SamplingTest, EqualLogitsAreCutAtTheLowerIds) {
  auto found = frequencies({2, 2, 2, 2}, options(1.0, 2, 1.0), 1000);
  EXPECT_EQ(found.size(), 2U);
  EXPECT_TRUE(found.count(0) && found.count(1));
}

TEST(SamplingTest, IsAFunctionOfSeedAndDraw) {
  int differ = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(sample(kLogits, options(1, 0, 1, 4), i), sample(kLogits, options(1, 0, 1, 4), i));
    differ += sample(kLogits, options(1, 0, 1, 4), i) != sample(kLogits, options(1, 0, 1, 5), i);
  }
  EXPECT_GT(differ, 50);
}

TEST(SamplingTest, ForbiddenTokensAreNeverDrawn) {
  const float never = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(frequencies({never, 0, never}, options(1, 0, 1), 1000).size(), 1U);
}

TEST(SamplingTest, LogitsThatAreNotNumbersAreAnError) {
  EXPECT_THROW(sample(std::vector<float>{0, NAN}, options(0, 0, 1), 0), DivergedError);
  EXPECT_THROW(sample(std::vector<float>{0, INFINITY}, options(1, 0, 1), 0), DivergedError);
  EXPECT_THROW(sample(std::vector<float>{-INFINITY}, options(1, 0, 1), 0), DivergedError);
}

}  // namespace
}  // namespace train_sft
