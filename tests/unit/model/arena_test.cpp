#include "model/arena.h"

#include <gtest/gtest.h>

#include "train_sft/base/error.h"
#include "train_sft/base/memory.h"

namespace train_sft {
namespace {

std::shared_ptr<ArenaStorage> storage(uint64_t limit = 0) {
  return std::make_shared<ArenaStorage>(limit);
}

ShapeOf per_token(int64_t columns) {
  return [columns](int64_t tokens, int64_t) { return BufferShape{tokens, columns}; };
}
ShapeOf per_learned(int64_t columns) {
  return [columns](int64_t, int64_t learned) { return BufferShape{learned, columns}; };
}
ShapeOf fixed(int64_t rows, int64_t columns) {
  return [rows, columns](int64_t, int64_t) { return BufferShape{rows, columns}; };
}

const char* begin_of(const at::Tensor& t) {
  return static_cast<const char*>(t.data_ptr());
}
const char* end_of(const at::Tensor& t) {
  return begin_of(t) + t.nbytes();
}
bool overlap(const at::Tensor& a, const at::Tensor& b) {
  return begin_of(a) < end_of(b) && begin_of(b) < end_of(a);
}

TEST(ArenaTest, BuffersNeededTogetherNeverOverlap) {
  ArenaPlan plan(storage());
  struct Entry {
    const at::Tensor* tensor;
    int first, last;
  };
  std::vector<Entry> entries;
  const at::ScalarType dtypes[] = {at::kFloat, at::kBFloat16, at::kDouble, at::kInt};
  for (int i = 0; i < 60; ++i) {
    const int first = (i * 7) % 20;
    const int last = first + (i * 5) % 9;
    entries.push_back({&plan.add("b", dtypes[i % 4],
                                 i % 3 ? per_token((i * 13) % 31) : fixed(11, i), first, last),
                       first, last});
  }
  plan.bind(17, 17);
  for (size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(begin_of(*entries[i].tensor)) % 64, 0U);
    for (size_t j = 0; j < i; ++j) {
      const bool together =
          entries[i].first <= entries[j].last && entries[j].first <= entries[i].last;
      EXPECT_FALSE(together && overlap(*entries[i].tensor, *entries[j].tensor)) << i << ' ' << j;
    }
  }
}

TEST(ArenaTest, BuffersOfDifferentMomentsShareBytes) {
  ArenaPlan plan(storage());
  for (int layer = 0; layer < 10; ++layer)
    plan.add("transient", at::kFloat, per_token(64), layer, layer);
  plan.bind(100, 100);
  EXPECT_EQ(plan.bytes(), 100U * 64 * 4);
  EXPECT_EQ(plan.bytes_unshared(), 10U * 100 * 64 * 4);
}

TEST(ArenaTest, ASmallerBatchNarrowsTheViewsInPlace) {
  auto block = storage();
  ArenaPlan plan(block);
  const at::Tensor& a = plan.add("a", at::kFloat, per_token(8), 0, 1);
  const at::Tensor& b = plan.add("b", at::kInt, per_learned(0), 0, 1);
  plan.bind(32, 32);
  const void* before = a.data_ptr();
  const uint64_t bytes = block->bytes();
  plan.bind(5, 2);
  EXPECT_EQ(a.data_ptr(), before);
  EXPECT_EQ(a.sizes(), (std::vector<int64_t>{5, 8}));
  EXPECT_EQ(b.sizes(), (std::vector<int64_t>{2}));
  EXPECT_TRUE(a.is_contiguous());
  plan.bind(32, 32);
  EXPECT_EQ(block->bytes(), bytes);
  plan.bind(33, 33);
  EXPECT_GT(block->bytes(), bytes);
  EXPECT_EQ(plan.capacity(), 33);
}

TEST(ArenaTest, TwoPlansShareOneBlock) {
  auto block = storage();
  ArenaPlan small(block), large(block);
  const at::Tensor& a = small.add("a", at::kFloat, per_token(4), 0, 0);
  const at::Tensor& b = large.add("b", at::kFloat, per_token(40), 0, 0);
  small.bind(10, 10);
  large.bind(10, 10);
  small.bind(10, 10);
  EXPECT_EQ(a.data_ptr(), b.data_ptr());
  EXPECT_EQ(block->bytes(), 10U * 40 * 4);
}

TEST(ArenaTest, TheLimitSaysWhatWasNeeded) {
  ArenaPlan plan(storage(1000));
  plan.add("a", at::kFloat, per_token(100), 0, 0);
  plan.bind(2, 2);
  try {
    plan.bind(5, 5);
    FAIL() << "2,048 bytes were granted under a limit of 1,000";
  } catch (const ResourceError& error) {
    EXPECT_NE(std::string(error.what()).find("batch_size"), std::string::npos) << error.what();
  }
}

TEST(ArenaTest, ARefusedMicroBatchLeavesThePlanForSmallerOnes) {
  ArenaPlan plan(storage(/*limit=*/1 << 12));
  const at::Tensor& tensor = plan.add("a", at::kFloat, per_token(16), 0, 1);
  plan.bind(32, 32);
  const uint64_t bytes = plan.bytes();
  EXPECT_THROW(plan.bind(100, 100), ResourceError);
  EXPECT_EQ(plan.bytes(), bytes);
  plan.bind(40, 40);
  EXPECT_EQ(tensor.size(0), 40);
  tensor.fill_(1);
}

TEST(ArenaTest, GrowthGivesBackTheOldBlockFirst) {
  const auto shared = storage();
  ArenaPlan small(shared), large(shared);
  const at::Tensor& a = small.add("a", at::kFloat, per_token(16), 0, 1);
  const at::Tensor& b = large.add("b", at::kFloat, per_token(64), 0, 1);
  small.bind(32, 32);
  large.bind(64, 64);
  // The first plan's tensors, not bound since, hold no block of their own.
  EXPECT_EQ(a.storage().data(), b.storage().data());
  EXPECT_EQ(a.storage().nbytes(), shared->bytes());
  small.bind(32, 32);
  a.fill_(3);
  EXPECT_EQ(a.sum().item<float>(), 3 * 32 * 16);
}

TEST(ArenaTest, WhatIsFinishedIsGivenBackAndNothingElse) {
  constexpr int64_t kColumns = 1 << 20;  // a row is 4 MB
  ArenaPlan plan(storage());
  const at::Tensor& early = plan.add("early", at::kFloat, per_token(kColumns), 0, 1);
  const at::Tensor& late = plan.add("late", at::kFloat, per_token(kColumns), 0, 3);
  const at::Tensor& later = plan.add("later", at::kFloat, fixed(1, kColumns), 2, 3);
  plan.bind(4, 4);
  EXPECT_EQ(plan.finished_bytes(0), 0U);
  // `later` stands where a part of `early` stood.
  EXPECT_EQ(plan.finished_bytes(1), 3U * 4 * kColumns);
  EXPECT_EQ(plan.finished_bytes(3), plan.bytes());
  early.fill_(1);
  late.fill_(2);
  later.fill_(3);
  const uint64_t before = anonymous_bytes();
  EXPECT_EQ(plan.give_back(1, 4 * kColumns), 4U * kColumns);
  EXPECT_EQ(plan.give_back(1, uint64_t{1} << 40), 2U * 4 * kColumns);
  EXPECT_EQ(plan.give_back(1, uint64_t{1} << 40), 0U);
  // All but the pages at the pieces' ends.
  EXPECT_LT(anonymous_bytes(), before - 11 * kColumns);
  EXPECT_EQ(late.sum().item<float>(), 2.0f * 4 * kColumns);
  EXPECT_EQ(later.sum().item<float>(), 3.0f * kColumns);
  // The next pass has it all again.
  plan.bind(4, 4);
  early.fill_(4);
  EXPECT_EQ(plan.give_back(1, uint64_t{1} << 40), 3U * 4 * kColumns);
}

}  // namespace
}  // namespace train_sft
