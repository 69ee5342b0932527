#include "train_sft/collective/collective.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>

#include "support/ranks.h"
#include "train_sft/base/error.h"
#include "train_sft/collective/agreement.h"

namespace train_sft {
namespace {

using std::chrono::seconds;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr seconds kTimeout{30};

class GlooTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  }
};

float at_index(const at::Tensor& tensor, int64_t i) {
  return tensor.const_data_ptr<float>()[i];
}

TEST_P(GlooTest, AllReduceAddsUpAndIsTheSameBitsEverywhere) {
  const int count = GetParam();
  std::vector<at::Tensor> results(static_cast<size_t>(count));
  const auto thrown = on_ranks(count, kTimeout, [&](Collective& all) {
    at::Tensor values = at::arange(100003, at::kFloat).mul_(0.1 * (all.rank() + 1));
    const at::Tensor second = at::full({7}, all.rank() + 1, at::kFloat);
    const auto first = all.all_reduce(values, "first");
    all.all_reduce(second, "second")->wait();  // the later may end before the earlier is waited for
    first->wait();
    EXPECT_EQ(at_index(second, 6), static_cast<float>(count * (count + 1) / 2));
    results[static_cast<size_t>(all.rank())] = values;
  });
  EXPECT_THAT(thrown, Each(std::string()));
  for (const at::Tensor& result : results) EXPECT_TRUE(result.equal(results[0]));
  EXPECT_NEAR(at_index(results[0], 1000), 100.0 * count * (count + 1) / 2, 1e-3);
}

// Each addition rounds to 8 bits.
TEST_P(GlooTest, BFloat16IsAddedUpToTheSameBitsEverywhere) {
  const int count = GetParam();
  std::vector<at::Tensor> sums(static_cast<size_t>(count));
  const auto value = [](int rank) {
    return at::arange(100003, at::kFloat).mul_(0.37 * (rank + 1)).sin_().to(at::kBFloat16);
  };
  const auto thrown = on_ranks(count, kTimeout, [&](Collective& all) {
    const at::Tensor values = value(all.rank());
    all.all_reduce(values, "sum")->wait();
    sums[static_cast<size_t>(all.rank())] = values;
    const at::Tensor parts = value(all.rank());
    ShardLimits limits{0};
    for (int r = 1; r < count; ++r) limits.push_back(5003 * r);
    limits.push_back(100003);
    all.reduce_scatter(parts, limits, "scatter")->wait();
    const auto own = static_cast<size_t>(all.rank());
    const auto cut = [&](const at::Tensor& t) {
      return t.narrow(0, limits[own], limits[own + 1] - limits[own]).to(at::kFloat);
    };
    EXPECT_LE(cut(parts).sub(cut(values)).abs().max().item<float>(), count * 0x1p-8f * count);
  });
  EXPECT_THAT(thrown, Each(std::string()));
  at::Tensor exact = at::full({100003}, 0, at::kDouble);
  for (int rank = 0; rank < count; ++rank) exact.add_(value(rank).to(at::kDouble));
  for (const at::Tensor& sum : sums) {
    EXPECT_TRUE(sum.equal(sums[0]));
    EXPECT_LE(sum.to(at::kDouble).sub(exact).abs().max().item<double>(), count * count * 0x1p-9);
  }
}

// Infinity is larger than any number, and what is no number larger than that, whoever has it.
TEST_P(GlooTest, TheLargestIsFoundOfAllRanks) {
  const int count = GetParam();
  const auto thrown = on_ranks(count, kTimeout, [&](Collective& all) {
    const at::Tensor values = at::arange(5003, at::kFloat).mul_(all.rank() + 1);
    float* own = values.mutable_data_ptr<float>();
    own[0] = 1e-45F * static_cast<float>(all.rank());  // subnormal
    if (all.rank() == 0) own[7] = std::numeric_limits<float>::infinity();
    if (all.rank() == 1) own[8] = std::nanf("");
    if (all.rank() == count - 1) own[9] = std::nanf("");
    if (all.rank() == 0) own[9] = std::numeric_limits<float>::infinity();
    all.all_reduce_max(values, "largest")->wait();
    EXPECT_EQ(at_index(values, 0), 1e-45F * static_cast<float>(count - 1));
    EXPECT_EQ(at_index(values, 5002), static_cast<float>(5002 * count));
    EXPECT_EQ(at_index(values, 7), std::numeric_limits<float>::infinity());
    EXPECT_TRUE(std::isnan(at_index(values, 8)));
    EXPECT_TRUE(std::isnan(at_index(values, 9)));
  });
  EXPECT_THAT(thrown, Each(std::string()));
}

// Parts of any size, empty ones too.
TEST_P(GlooTest, ScatteredSumsGatheredAgainAreAllReduced) {
  const int count = GetParam();
  ShardLimits limits{0};
  for (int r = 1; r < count; ++r) limits.push_back(limits.back() + (r % 2 == 1 ? 501 + r : 0));
  limits.push_back(2000);
  const auto thrown = on_ranks(count, kTimeout, [&](Collective& all) {
    const at::Tensor flat = at::arange(2000, at::kFloat).add_(static_cast<double>(all.rank()));
    all.reduce_scatter(flat, limits, "scatter")->wait();
    const auto own = static_cast<size_t>(all.rank());
    const auto sum_at = [&](int64_t i) {
      return static_cast<float>(count * i + count * (count - 1) / 2);
    };
    for (int64_t i = limits[own]; i < limits[own + 1]; ++i) ASSERT_EQ(at_index(flat, i), sum_at(i));
    flat.narrow(0, 0, limits[own]).fill_(-1);
    flat.narrow(0, limits[own + 1], 2000 - limits[own + 1]).fill_(-1);
    all.all_gather(flat, limits, "gather")->wait();
    for (int64_t i = 0; i < 2000; ++i) ASSERT_EQ(at_index(flat, i), sum_at(i));
  });
  EXPECT_THAT(thrown, Each(std::string()));
}

TEST_P(GlooTest, ExchangedNumbersAndTextsComeByRank) {
  const int count = GetParam();
  const auto text_of = [](int rank) { return std::string(static_cast<size_t>(rank) * 3, 'x'); };
  const auto thrown = on_ranks(count, kTimeout, [&](Collective& all) {
    const auto numbers = all.exchange_numbers({1.5 * all.rank(), 7}, "numbers");
    const auto texts = all.exchange_text(text_of(all.rank()), "texts");
    ASSERT_EQ(texts.size(), static_cast<size_t>(count));
    for (int r = 0; r < count; ++r) {
      EXPECT_EQ(numbers[static_cast<size_t>(r)], (std::vector<double>{1.5 * r, 7}));
      EXPECT_EQ(texts[static_cast<size_t>(r)], text_of(r));
    }
  });
  EXPECT_THAT(thrown, Each(std::string()));
}

TEST_P(GlooTest, AFailureOfOneRankIsThrownByAll) {
  const auto thrown = on_ranks(GetParam(), kTimeout, [&](Collective& all) {
    together(all, "work", [&] {
      if (all.rank() == 1) throw DataError("row 7 is torn");
    });
  });
  for (size_t rank = 0; rank < thrown.size(); ++rank)
    EXPECT_EQ(thrown[rank], rank == 1 ? "row 7 is torn" : "rank 1: row 7 is torn");
}

TEST_P(GlooTest, ADifferenceIsReportedWithTheRank) {
  const int last = GetParam() - 1;
  const auto thrown = on_ranks(GetParam(), kTimeout, [&](Collective& all) {
    require_same(all, "the data", "a", "nothing to do");
    require_same(all, "the data", all.rank() == last ? "b" : "a", "copy them");
  });
  EXPECT_THAT(
      thrown,
      Each(fmt::format("the data of rank {} is not that of rank 0 (b, not a); copy them", last)));
}

TEST_P(GlooTest, TheFirstRankGoesFirst) {
  std::atomic<int> done{0};
  const auto thrown = on_ranks(GetParam(), kTimeout, [&](Collective& all) {
    first_rank_first(all, "work", [&] {
      const int before = done++;
      EXPECT_EQ(before == 0, all.is_first());
    });
  });
  EXPECT_THAT(thrown, Each(std::string()));
  EXPECT_EQ(done, GetParam());
}

// Longer than the timeout, but it lives.
TEST_P(GlooTest, LongWorkOfAProcessThatLivesIsWaitedFor) {
  const int worker = GetParam() - 1;
  const auto thrown = on_ranks(GetParam(), seconds(2), [&](Collective& all) {
    together(all, "work", [&] {
      if (all.rank() == worker) std::this_thread::sleep_for(seconds(9));
    });
  });
  EXPECT_THAT(thrown, Each(std::string()));
}

// Not announced, but piece by piece; the others wait in a collective as any other.
TEST_P(GlooTest, WhoeverDoesOnePieceAfterAnotherIsWaitedFor) {
  const auto thrown = on_ranks(GetParam(), seconds(2), [&](Collective& all) {
    for (int piece = 0; piece < 9 && all.is_first(); ++piece) {
      std::this_thread::sleep_for(seconds(1));
      all.progressed();
    }
    all.all_reduce(at::full({10}, 1, at::kFloat), "gradients")->wait();
  });
  EXPECT_THAT(thrown, Each(std::string()));
}

// A save on the first rank, say, while the others are in the next step.
TEST_P(GlooTest, AnnouncedWorkOfOneRankIsWaitedForInAnyCall) {
  const auto thrown = on_ranks(GetParam(), seconds(2), [&](Collective& all) {
    if (all.is_first()) {
      const LongWork save(all);
      std::this_thread::sleep_for(seconds(9));
    }
    all.all_reduce(at::full({10}, 1, at::kFloat), "gradients")->wait();
    all.exchange_numbers({1}, "sums");
  });
  EXPECT_THAT(thrown, Each(std::string()));
}

// One that does not come: the others say which call, which step and who is missing, in time.
TEST_P(GlooTest, AMissingRankEndsTheOthersWithinTheTimeout) {
  const int missing = GetParam() - 1;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::string> said(static_cast<size_t>(GetParam()));
  on_ranks(GetParam(), seconds(2), [&](Collective& all) {
    all.at_step(41);
    all.barrier("before");
    if (all.rank() == missing) {
      std::this_thread::sleep_for(seconds(14));
      throw std::runtime_error("too late");
    }
    try {
      all.all_reduce(at::full({10}, 1, at::kFloat), "gradients")->wait();
    } catch (const LostProcesses& error) {
      said[static_cast<size_t>(all.rank())] = error.what();
      std::this_thread::sleep_for(seconds(5));  // until all have seen it
    }
  });
  for (int rank = 0; rank < missing; ++rank) {
    const std::string& message = said[static_cast<size_t>(rank)];
    EXPECT_THAT(message, HasSubstr("'gradients' of step 41"));
    EXPECT_THAT(message, HasSubstr(fmt::format("not come to it: rank {}.", missing)));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(40));
}

// All wait, each for what another does not send: nobody is late, and nothing will come.
TEST_P(GlooTest, RanksThatWaitInDifferentCallsForEachOtherAreEnded) {
  std::vector<std::string> said(static_cast<size_t>(GetParam()));
  on_ranks(GetParam(), seconds(2), [&](Collective& all) {
    try {
      if (all.is_first())
        all.all_reduce(at::full({10}, 1, at::kFloat), "gradients")->wait();
      else
        all.barrier("sums");
    } catch (const LostProcesses& error) {
      said[static_cast<size_t>(all.rank())] = error.what();
      std::this_thread::sleep_for(seconds(5));
    }
  });
  for (const std::string& message : said) EXPECT_THAT(message, HasSubstr("does not arrive"));
}

INSTANTIATE_TEST_SUITE_P(Ranks, GlooTest, ::testing::Values(2, 3, 4));

TEST(JoinTest, WithoutTheOthersItEndsWithAMessage) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  try {
    join_processes(place_of(1, 2, free_port()), seconds(1));
    FAIL() << "joined nobody";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 1 of 2: the processes of the run could not meet"));
  }
}

TEST(SingleProcessTest, IsAloneAndExchangesWithItself) {
  Collective& alone = single_process();
  EXPECT_EQ(alone.size(), 1);
  EXPECT_TRUE(alone.is_first());
  EXPECT_EQ(alone.exchange_text("abc", "text"), std::vector<std::string>{"abc"});
  const at::Tensor values = at::full({3}, 2, at::kFloat);
  alone.all_reduce(values, "values")->wait();
  EXPECT_EQ(at_index(values, 2), 2);
  EXPECT_THROW(together(alone, "work", [] { throw DataError("torn"); }), DataError);
}

}  // namespace
}  // namespace train_sft
