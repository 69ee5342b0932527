// Seeds, former findings and a fixed set of damaged seeds through every reader: each is read or
// refused with an Error, whatever the bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "fuzz/targets.h"
#include "train_sft/base/error.h"

namespace train_sft {

// How GoogleTest names a reader in what it prints.
void PrintTo(const FuzzTarget& target, std::ostream* out) {
  *out << target.name;
}

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

// tests/fuzz/regressions/<reader>/<finding>
TEST(FormerFindings, AreReadOrRefused) {
  const std::filesystem::path folder =
      std::filesystem::path(TRAIN_SFT_SOURCE_DIR) / "tests/fuzz/regressions";
  const auto& targets = fuzz_targets();
  size_t findings = 0;
  for (const auto& reader : std::filesystem::directory_iterator(folder)) {
    const auto target = std::find_if(targets.begin(), targets.end(), [&](const FuzzTarget& t) {
      return reader.path().filename() == t.name;
    });
    ASSERT_NE(target, targets.end()) << reader.path() << " is no reader's";
    for (const auto& file : std::filesystem::directory_iterator(reader)) {
      EXPECT_NO_THROW(read_any_bytes(*target, content(file.path()))) << file.path();
      ++findings;
    }
  }
  EXPECT_GT(findings, 0u);
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
