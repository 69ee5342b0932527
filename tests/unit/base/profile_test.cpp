#include "train_sft/base/profile.h"

#include <gtest/gtest.h>

#include <thread>

namespace train_sft {
namespace {

using std::chrono::milliseconds;

void spend(const char* name, int ms) {
  const profile::Scope scope(name);
  std::this_thread::sleep_for(milliseconds(ms));
}

TEST(ProfileTest, AddsUpTheOutermostScopesOfItsThread) {
  spend("before", 1);
  profile::measure(true);
  const auto begin = std::chrono::steady_clock::now();
  spend("short", 2);
  for (int i = 0; i < 3; ++i) {
    const profile::Scope outer("long");
    spend("within", 5);
  }
  std::thread([] { spend("elsewhere", 1); }).join();
  profile::measure(false);
  const std::chrono::duration<double, std::milli> clock = std::chrono::steady_clock::now() - begin;
  spend("after", 1);

  const auto entries = profile::entries();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].name, "long");
  EXPECT_EQ(entries[0].calls, 3);
  EXPECT_GE(entries[0].ms, 15);
  EXPECT_EQ(entries[1].name, "short");
  EXPECT_EQ(entries[1].calls, 1);
  EXPECT_LE(entries[0].ms + entries[1].ms, clock.count());

  profile::forget();
  EXPECT_TRUE(profile::entries().empty());
}

}  // namespace
}  // namespace train_sft
