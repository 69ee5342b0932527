#include "model/padding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "train_sft/base/rng.h"

namespace train_sft {
namespace {

TEST(PaddedSizeTest, FewSizesMultiplesOfSixteenAndLittleAdded) {
  std::set<int64_t> sizes;
  for (int64_t n = 0; n <= 70'000; ++n) {
    const int64_t size = padded_size(n);
    ASSERT_GE(size, std::max<int64_t>(n, 128));
    ASSERT_EQ(size % 16, 0);
    if (n > 128) {
      ASSERT_LT(8 * (size - n), n) << n;  // less than an eighth
    }
    ASSERT_EQ(padded_size(size), size);
    if (n > 0) {
      ASSERT_GE(size, padded_size(n - 1));
    }
    sizes.insert(size);
  }
  EXPECT_LE(sizes.size(), 1U + 8 * 10);
}

Batch random_batch(uint64_t seed, bool all_learned) {
  const CounterRng rng(seed, 5);
  Batch batch;
  batch.cu_seqlens.push_back(0);
  const uint64_t documents = 1 + rng.bits(0) % 9;
  for (uint64_t d = 0; d < documents; ++d) {
    const auto length = static_cast<int32_t>(1 + rng.bits(1 + d) % 70);
    for (int32_t i = 0; i < length; ++i) {
      const auto n = static_cast<int32_t>(batch.size());
      if (all_learned || rng.bits(static_cast<uint64_t>(1000 + n)) % 3 == 0)
        batch.learned.push_back(n);
      batch.tokens.push_back(n % 50);
      batch.targets.push_back((n + 1) % 50);
      batch.positions.push_back(i);
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.size()));
    batch.example_ids.push_back(d);
    batch.max_seqlen = std::max(batch.max_seqlen, length);
  }
  return batch;
}

TEST(PadTest, WhatIsAddedIsItsOwnDocumentsAndHasNoWeight) {
  Batch padded;  // used again and again
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const Batch batch = random_batch(seed, seed % 4 == 0);
    if (batch.learned.empty()) continue;
    const PaddedShape shape = padded_shape(batch, 100, 0);
    pad(batch, shape, padded);
    ASSERT_EQ(padded.size(), shape.tokens);
    ASSERT_EQ(padded.documents(), shape.documents);
    ASSERT_EQ(static_cast<int64_t>(padded.learned.size()), shape.learned);
    ASSERT_EQ(padded.weights.size(), padded.learned.size());
    ASSERT_TRUE(std::equal(batch.tokens.begin(), batch.tokens.end(), padded.tokens.begin()));
    ASSERT_TRUE(
        std::equal(batch.cu_seqlens.begin(), batch.cu_seqlens.end(), padded.cu_seqlens.begin()));
    ASSERT_EQ(padded.cu_seqlens.back(), shape.tokens);
    ASSERT_TRUE(std::is_sorted(padded.cu_seqlens.begin(), padded.cu_seqlens.end()));
    std::vector<int32_t> weighed;
    for (size_t i = 0; i < padded.learned.size(); ++i) {
      if (i > 0) {
        ASSERT_LT(padded.learned[i - 1], padded.learned[i]);
      }
      ASSERT_GE(padded.targets[static_cast<size_t>(padded.learned[i])], 0);
      if (padded.weights[i] != 0) weighed.push_back(padded.learned[i]);
    }
    ASSERT_EQ(weighed, batch.learned);
    for (size_t d = 0; d + 1 < padded.cu_seqlens.size(); ++d)
      ASSERT_LE(padded.cu_seqlens[d + 1] - padded.cu_seqlens[d], shape.max_seqlen);
    if (batch.learned.size() == batch.tokens.size()) {
      ASSERT_EQ(shape.learned, shape.tokens);  // still every row
    }
  }
}

TEST(PadTest, TheLargestMicroBatchIsASizeOfItsOwn) {
  Batch batch = random_batch(1, true);
  EXPECT_EQ(padded_shape(batch, 100, batch.size()).tokens, (batch.size() + 15) / 16 * 16);
  EXPECT_EQ(padded_shape(batch, 100, batch.size() - 1).tokens % 16, 0);
  EXPECT_LE(padded_shape(batch, 100, 0).max_seqlen, 100);
}

}  // namespace
}  // namespace train_sft
