#include "train_sft/report/signs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <functional>

#include "report/statistics.h"
#include "train_sft/base/rng.h"

namespace train_sft {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int64_t kSteps = 1000, kInterval = 10, kEvalInterval = 50, kWarmup = 20;

// A run as most are: loss falls as a power of the step with a noise of 3 %, cosine schedule, one
// evaluation in fifty steps.
class Series {
 public:
  explicit Series(uint64_t seed = 1) : rng_(seed, 0) {
    for (int64_t step = 1; step <= kSteps; step = step == 1 ? kInterval : step + kInterval) {
      Record record;
      record.step = step;
      record.lr = lr(step);
      record.loss = falling(step) * (1 + 0.03 * noise(step, 0));
      record.grad_norm = (0.5 + 3.0 / static_cast<double>(step)) * (1 + 0.2 * noise(step, 1));
      record.tokens_per_s = 20000 * (1 + 0.1 * noise(step, 2));
      record.step_ms = 400;
      record.data_wait_ms = 4;
      record.memory_bytes = 4'000'000'000;
      record.memory_limit_bytes = 16'000'000'000;
      if (step % kEvalInterval == 0) record.val_loss = falling(step) * 1.03;
      records_.push_back(record);
    }
  }

  Series& change(const std::function<void(Record&)>& how) {
    for (Record& record : records_) how(record);
    return *this;
  }
  std::vector<Sign> signs() const { return signs_of(records_); }
  std::vector<std::string> rules(Sign::Level level = Sign::Level::warning) const {
    std::vector<std::string> names;
    for (const Sign& sign : signs())
      if (sign.level == level) names.push_back(sign.rule);
    return names;
  }
  Sign the(const std::string& rule) const {
    for (const Sign& sign : signs())
      if (sign.rule == rule) return sign;
    ADD_FAILURE() << "no sign " << rule;
    return {};
  }
  const std::vector<Record>& records() const { return records_; }

  static double lr(int64_t step) {
    if (step <= kWarmup) return 1e-3 * static_cast<double>(step) / kWarmup;
    const double part = static_cast<double>(step - kWarmup) / (kSteps - kWarmup);
    return 1e-4 + 9e-4 * (1 + std::cos(part * 3.14159265)) / 2;
  }
  static double falling(int64_t step) {
    return 1.5 + 7 * std::pow(static_cast<double>(step), -0.4);
  }
  double noise(int64_t step, uint64_t what) const {  // of mean 0 and deviation about 1
    double sum = 0;
    for (uint64_t i = 0; i < 12; ++i)
      sum +=
          static_cast<double>(rng_.bits((static_cast<uint64_t>(step) * 4 + what) * 12 + i) >> 11) *
          0x1.0p-53;
    return sum - 6;
  }

 private:
  CounterRng rng_;
  std::vector<Record> records_;
};

class HealthySeries : public ::testing::TestWithParam<uint64_t> {};

TEST_P(HealthySeries, HasNoWarning) {
  const Series series(GetParam());
  std::vector<std::string> said;
  for (const Sign& sign : series.signs())
    if (sign.level == Sign::Level::warning)
      said.push_back(sign.rule + " at " + std::to_string(sign.step) + ": " + sign.evidence);
  EXPECT_THAT(said, IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Seeds, HealthySeries, ::testing::Range<uint64_t>(1, 41));

TEST(SignsTest, AHighGradientNormIsSeenAfterWarmUpOnly) {
  Series early, late;
  early.change([](Record& r) { r.grad_norm = r.step < 100 ? 9 : 0.5; });
  EXPECT_THAT(early.rules(), Not(Contains("grad_norm_high")));
  late.change([](Record& r) { r.grad_norm = r.step > 500 ? 2.4 : 0.5; });
  const Sign sign = late.the("grad_norm_high");
  EXPECT_THAT(sign.evidence, HasSubstr("2.40"));
  EXPECT_GE(sign.step, 540);  // when most of ten records are
  EXPECT_LE(sign.step, 610);
}

TEST(SignsTest, ARisingGradientNorm) {
  Series series;
  series.change([](Record& r) {
    if (r.step > 400) r.grad_norm *= std::exp(static_cast<double>(r.step - 400) / 250);
  });
  EXPECT_GT(series.the("grad_norm_rising").step, 400);
}

TEST(SignsTest, SpikesAreThoseTheTrainerCounted) {
  Series series;
  series.change([](Record& r) { r.spikes = (r.step > 300) + 2 * (r.step > 800); });
  const auto rules = series.rules();
  EXPECT_EQ(std::count(rules.begin(), rules.end(), "loss_spike"), 2);
  EXPECT_THAT(series.the("loss_spike").evidence, HasSubstr("1 of steps 301 to 310"));
}

TEST(SignsTest, AStepThatIsNotFinite) {
  Series series;
  series.change([](Record& r) {
    if (r.step != 500) return;
    r.skipped = true;
    r.grad_norm = std::nan("");
  });
  EXPECT_EQ(series.the("non_finite").step, 500);
  EXPECT_THAT(series.the("non_finite").evidence, HasSubstr("gradient is not finite"));
}

TEST(SignsTest, OverFittingNamesTheBestStep) {
  Series series;
  series.change([](Record& r) {
    if (r.val_loss && r.step > 400)
      r.val_loss = Series::falling(400) * 1.03 + 2e-4 * static_cast<double>(r.step - 400);
  });
  const Sign sign = series.the("over_fitting");
  EXPECT_EQ(sign.from_step, 400);
  EXPECT_EQ(sign.step, 550);  // the third evaluation after it
  EXPECT_THAT(sign.evidence, HasSubstr("the best was step 400"));
}

TEST(SignsTest, ValidationRisingTogetherWithTrainingIsNotOverFitting) {
  Series series;
  series.change([](Record& r) {
    const double rise = r.step > 400 ? 2e-3 * static_cast<double>(r.step - 400) : 0;
    r.loss += rise;
    if (r.val_loss) *r.val_loss += rise;
  });
  EXPECT_THAT(series.rules(), Not(Contains("over_fitting")));
  EXPECT_THAT(series.rules(), Contains("lr_too_high"));
}

TEST(SignsTest, APlateauOfValidationAtAHighRateOnly) {
  Series constant, annealed;
  constant.change([](Record& r) {
    r.lr = std::min(r.lr, 1e-3);
    if (r.step > kWarmup) r.lr = 1e-3;
    if (r.val_loss) r.val_loss = std::max(*r.val_loss, 2.2);
  });
  EXPECT_THAT(constant.rules(), Contains("plateau"));
  annealed.change([](Record& r) {
    if (r.val_loss) r.val_loss = std::max(*r.val_loss, Series::falling(700) * 1.03);
  });
  EXPECT_THAT(annealed.rules(), Not(Contains("plateau")));
}

TEST(SignsTest, APlateauOfTrainingWithoutValidation) {
  Series series;
  series.change([&](Record& r) {
    if (r.step > kWarmup) r.lr = 1e-3;
    r.loss = std::max(Series::falling(r.step), 2.2) * (1 + 0.01 * series.noise(r.step, 0));
    r.val_loss.reset();
  });
  EXPECT_THAT(series.rules(), ::testing::ElementsAre("training_plateau"));
}

TEST(SignsTest, ForgettingNeedsTheNamedSetToRiseWhileValidationFalls) {
  const auto with_base = [](double slope) {
    Series series;
    series.change([slope](Record& r) {
      if (r.val_loss) r.eval_losses["base"] = 2 + slope * static_cast<double>(r.step);
    });
    return series;
  };
  const Sign sign = with_base(5e-4).the("forgetting");
  EXPECT_EQ(sign.from_step, 50);
  EXPECT_THAT(sign.evidence, HasSubstr("'base' rose from 2.0250 at step 50"));
  EXPECT_THAT(with_base(-5e-4).rules(), IsEmpty());
  EXPECT_THAT(with_base(0).rules(), IsEmpty());
}

TEST(SignsTest, NotLearningSaysSoSoonAndOnce) {
  Series series;
  series.change([&](Record& r) {
    r.loss = 6.2 * (1 + 0.01 * series.noise(r.step, 0));
    if (r.val_loss) r.val_loss = 6.2;
  });
  const auto rules = series.rules();
  EXPECT_EQ(std::count(rules.begin(), rules.end(), "not_learning"), 1);
  EXPECT_LT(series.the("not_learning").step, 300);
}

TEST(SignsTest, ARateThatIsTooHighMakesTheLossClimb) {
  Series series;
  series.change([](Record& r) {
    if (r.step > 200) r.loss += 3 * (1 - std::exp(-static_cast<double>(r.step - 200) / 60));
  });
  const Sign sign = series.the("lr_too_high");
  EXPECT_GT(sign.step, 200);
  EXPECT_LT(sign.step, 350);
}

TEST(SignsTest, ARateThatIsTooLowLeavesAStraightLine) {
  Series series;
  series.change([&](Record& r) {
    r.loss = (8 - 4e-4 * static_cast<double>(r.step)) * (1 + 0.01 * series.noise(r.step, 0));
    if (r.val_loss) r.val_loss = 8 - 4e-4 * static_cast<double>(r.step);
  });
  EXPECT_THAT(series.rules(), Contains("lr_too_low"));
}

TEST(SignsTest, DataWaitThroughputAndMemory) {
  Series waits, slows, grows;
  waits.change([](Record& r) { r.data_wait_ms = r.step > 500 ? 60 : 4; });
  EXPECT_THAT(waits.the("data_wait").evidence, HasSubstr("15 %"));
  slows.change([](Record& r) {
    if (r.step > 600) r.tokens_per_s *= 0.5;
  });
  EXPECT_GT(slows.the("throughput_dropping").step, 600);
  grows.change([](Record& r) { r.memory_bytes += static_cast<uint64_t>(r.step) * 12'000'000; });
  const Sign sign = grows.the("memory_near_limit");
  EXPECT_THAT(sign.evidence, HasSubstr("of the 16.0 GB"));
  EXPECT_THAT(grows.rules(), ::testing::ElementsAre("memory_near_limit"));  // once
}

TEST(SignsTest, AShortHiccupIsNoDrop) {
  Series series;
  series.change([](Record& r) {
    r.step_ms = 40;  // ten records in four seconds
    if (r.step > 600) r.tokens_per_s *= 0.5;
  });
  EXPECT_THAT(series.rules(), Not(Contains("throughput_dropping")));
}

TEST(SignsTest, MilestonesAreNotes) {
  const Series series;
  EXPECT_THAT(series.rules(Sign::Level::note), Each("perplexity_milestone"));
  EXPECT_THAT(series.the("perplexity_milestone").evidence,
              HasSubstr("below 20 for the first time"));
  EXPECT_THAT(series.rules(), IsEmpty());
}

TEST(SignsTest, NothingOfARunWhoseNumbersAreAllMissing) {
  std::vector<Record> records;
  for (int64_t step = 1; step <= 100; ++step)
    records.push_back(record_from_json(
        {{"step", step}, {"loss", nullptr}, {"grad_norm", nullptr}, {"val_loss", nullptr}}));
  EXPECT_THAT(signs_of(records), IsEmpty());
}

TEST(SignsTest, ARecordOfALongRunCostsNoMoreThanOneOfAShortRun) {
  SignWatch watch;
  Record record;
  record.lr = 1e-3;
  const auto begin = std::chrono::steady_clock::now();
  for (record.step = 1; record.step <= 200'000; ++record.step) {
    record.loss = 2 + std::sin(static_cast<double>(record.step));
    watch.add(record);
  }
  // Looking through the losses so far at each record would take minutes.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(LevelOfRangesTest, EachRangeAsItsValuesOneByOne) {
  LevelOfRanges ranges;
  std::vector<double> values;
  for (int i = 0; i < 41; ++i) {
    values.push_back(i == 7 ? 1e12 : 3 + 1e-3 * std::sin(i));  // a spike costs no digits elsewhere
    ranges.add(values.back());
  }
  for (size_t first = 0; first < values.size(); ++first) {
    for (size_t count = 1; first + count <= values.size(); ++count) {
      const std::span range = std::span(values).subspan(first, count);
      const Level level = ranges.level(first, count);
      ASSERT_NEAR(level.mean, mean(range), 1e-12 * mean(range)) << first << " " << count;
      ASSERT_NEAR(level.error, standard_error(range), 1e-9 * standard_error(range));
    }
  }
}

TEST(SignsTest, EveryRuleIsListedOnce) {
  const auto rules = sign_rules();
  EXPECT_EQ(std::set<std::string>(rules.begin(), rules.end()).size(), rules.size());
  EXPECT_GE(rules.size(), 14u);
}

}  // namespace
}  // namespace train_sft
