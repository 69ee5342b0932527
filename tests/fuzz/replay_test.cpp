// Seeds, former findings and a fixed set of damaged seeds through every reader: each is read or
// refused with an Error, whatever the bytes.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "fuzz/targets.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

std::string content(const std::filesystem::path& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

class Readers : public ::testing::TestWithParam<FuzzTarget> {};

TEST_P(Readers, SeedsAreValid) {
  const auto seeds = GetParam().seeds();
  ASSERT_FALSE(seeds.empty());
  EXPECT_NO_THROW(GetParam().read(seeds[0])) << "the first seed is whole";
}

TEST_P(Readers, FormerFindingsAreReadOrRefused) {
  const std::filesystem::path folder =
      std::filesystem::path(TRAIN_SFT_SOURCE_DIR) / "tests/fuzz/regressions" / GetParam().name;
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no findings";
  for (const auto& file : std::filesystem::directory_iterator(folder))
    EXPECT_NO_THROW(read_any_bytes(GetParam(), content(file.path()))) << file.path();
}

TEST_P(Readers, DamagedSeedsAreReadOrRefused) {
  std::mt19937 chance(7);
  for (const std::string& seed : GetParam().seeds()) {
    const size_t stride = std::max<size_t>(1, seed.size() / 100);
    for (size_t length = 0; length < seed.size(); length += stride)
      ASSERT_NO_THROW(read_any_bytes(GetParam(), seed.substr(0, length))) << "cut to " << length;
    for (int i = 0; i < 200; ++i) {
      std::string damaged = seed;
      for (unsigned n = 1 + chance() % 4; n > 0 && !damaged.empty(); --n)
        damaged[chance() % damaged.size()] = static_cast<char>(chance());
      ASSERT_NO_THROW(read_any_bytes(GetParam(), damaged)) << "damage " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Readers, ::testing::ValuesIn(fuzz_targets()),
                         [](const auto& target) { return std::string(target.param.name); });

}  // namespace
}  // namespace train_sft
