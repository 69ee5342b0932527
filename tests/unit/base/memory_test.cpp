#include "train_sft/base/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

namespace train_sft {
namespace {

TEST(ZeroPagesTest, AreZerosOnAPageAndWritable) {
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{4097}, uint64_t{66} << 20}) {
    auto* begin = static_cast<char*>(allocate_zero_pages(bytes));
    ASSERT_NE(begin, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(begin) % 4096, 0U);
    if (bytes >= uint64_t{64} << 20) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(begin) % (2 << 20), 0U);
    }
    EXPECT_TRUE(std::all_of(begin, begin + bytes, [](char c) { return c == 0; }));
    std::fill(begin, begin + bytes, char{1});
    free_pages(begin);
  }
}

TEST(ZeroPagesTest, TakeNoMemoryBeforeTheyAreTouched) {
  constexpr uint64_t kBytes = uint64_t{256} << 20;
  const uint64_t before = resident_bytes();
  auto* begin = static_cast<char*>(allocate_zero_pages(kBytes));
  ASSERT_NE(begin, nullptr);
  EXPECT_LT(resident_bytes() - before, kBytes / 8);
  std::fill(begin, begin + kBytes / 2, char{1});
  EXPECT_GE(resident_bytes() - before, kBytes / 2);
  free_pages(begin);
  EXPECT_LT(resident_bytes(), before + kBytes / 8);
}

TEST(ZeroPagesTest, MoreThanThereCanBeIsNoMemory) {
  EXPECT_EQ(allocate_zero_pages(uint64_t{1} << 60), nullptr);
  EXPECT_EQ(allocate_zero_pages(~uint64_t{0}), nullptr);
}

}  // namespace
}  // namespace train_sft
