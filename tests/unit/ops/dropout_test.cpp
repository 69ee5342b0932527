#include "train_sft/ops/dropout.h"

#include "unit/ops/check.h"

namespace train_sft::ops {
namespace {

std::vector<uint64_t> keys_of(uint64_t seed, uint64_t step, const std::vector<int32_t>& lengths,
                              const std::vector<uint64_t>& ids) {
  std::vector<int32_t> cu_seqlens{0}, positions;
  for (int32_t length : lengths) {
    cu_seqlens.push_back(cu_seqlens.back() + length);
    for (int32_t p = 0; p < length; ++p) positions.push_back(p);
  }
  std::vector<uint64_t> keys(positions.size());
  dropout_row_keys(keys, seed, step, cu_seqlens, ids, positions);
  return keys;
}

at::Tensor mask_of(const std::vector<uint64_t>& keys, uint32_t site, double p, int64_t C) {
  const at::Tensor mask = at::empty({static_cast<int64_t>(keys.size()), C}, at::kDouble);
  dropout_mask(mask, keys, site, p);
  return mask;
}

TEST(DropoutTest, MaskFollowsTheExampleNotTheBatch) {
  const std::vector<uint64_t> together = keys_of(1, 5, {4, 3, 6}, {10, 20, 30});
  const std::vector<uint64_t> alone = keys_of(1, 5, {3}, {20});
  EXPECT_EQ(std::vector<uint64_t>(together.begin() + 4, together.begin() + 7), alone);
}

TEST(DropoutTest, EveryPartOfTheKeyMatters) {
  const at::Tensor mask = mask_of(keys_of(1, 5, {64}, {10}), 2, 0.5, 64);
  EXPECT_FALSE(mask.equal(mask_of(keys_of(2, 5, {64}, {10}), 2, 0.5, 64)));
  EXPECT_FALSE(mask.equal(mask_of(keys_of(1, 6, {64}, {10}), 2, 0.5, 64)));
  EXPECT_FALSE(mask.equal(mask_of(keys_of(1, 5, {64}, {11}), 2, 0.5, 64)));
  EXPECT_FALSE(mask.equal(mask_of(keys_of(1, 5, {64}, {10}), 3, 0.5, 64)));
  EXPECT_FALSE(mask.narrow(0, 0, 1).equal(mask.narrow(0, 1, 1)));
}

// Kept shares of rows, columns and all, and the correlation of neighbours in each direction and of
// two sites, within five standard deviations.
TEST(DropoutTest, MaskLooksRandom) {
  const int64_t N = 1024, C = 512;
  for (double p : {0.1, 0.5}) {
    const std::vector<uint64_t> keys = keys_of(3, 1, {1024}, {1});
    const at::Tensor kept = mask_of(keys, 0, p, C).ne(0).to(at::kDouble);
    const double q = 1 - p, deviation = std::sqrt(p * q);
    EXPECT_NEAR(kept.mean().item<double>(), q, 5 * deviation / std::sqrt(N * C));
    EXPECT_LT(kept.mean(1).sub(q).abs().max().item<double>(), 5 * deviation / std::sqrt(C));
    EXPECT_LT(kept.mean(0).sub(q).abs().max().item<double>(), 5 * deviation / std::sqrt(N));
    const at::Tensor x = kept.sub(q), other = mask_of(keys, 1, p, C).ne(0).to(at::kDouble).sub(q);
    auto correlation = [&](const at::Tensor& a, const at::Tensor& b) {
      return std::abs(a.mul(b).mean().item<double>()) / (p * q);
    };
    const double limit = 5 / std::sqrt(N * C / 2);
    EXPECT_LT(correlation(x.narrow(0, 0, N - 1), x.narrow(0, 1, N - 1)), limit);
    EXPECT_LT(correlation(x.narrow(1, 0, C - 1), x.narrow(1, 1, C - 1)), limit);
    EXPECT_LT(correlation(x, other), limit);
  }
}

TEST(DropoutTest, ZeroKeepsEverything) {
  EXPECT_TRUE(mask_of(keys_of(1, 1, {9}, {1}), 0, 0.0, 9).eq(1).all().item<bool>());
}

}  // namespace
}  // namespace train_sft::ops
