#include "train_sft/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace train_sft {
namespace {

Schedule schedule(const std::string& kind, int64_t max_iters, int64_t warmup, int64_t plateau) {
  Schedule s;
  s.kind = kind;
  s.max_iters = max_iters;
  s.warmup_iters = warmup;
  s.plateau_iters = plateau;
  s.peak_lr = 1e-3;
  s.min_lr = 1e-4;
  return s;
}

TEST(ScheduleTest, WarmUpIsStepPlusOneOverW) {
  const Schedule s = schedule("cosine", 100, 10, 0);
  for (int64_t step = 0; step < 10; ++step)
    EXPECT_DOUBLE_EQ(s.lr(step), 1e-3 * static_cast<double>(step + 1) / 10) << "step " << step;
}

TEST(ScheduleTest, DecayReachesMinLrExactlyAtTheLastStep) {
  for (const char* kind : {"cosine", "linear", "warmup_plateau_cosine"})
    for (const int64_t max_iters : {11, 12, 97, 800}) {
      const Schedule s = schedule(kind, max_iters, 5, kind[0] == 'w' ? 5 : 0);
      EXPECT_EQ(s.lr(max_iters - 1), 1e-4) << kind << " " << max_iters;
      EXPECT_EQ(s.lr(max_iters), 1e-4) << kind << " " << max_iters;
      if (max_iters > 12) {
        EXPECT_GT(s.lr(max_iters - 2), 1e-4) << kind << " " << max_iters;
      }
    }
}

TEST(ScheduleTest, CosineIsHalfWayInTheMiddle) {
  const Schedule s = schedule("cosine", 101, 0, 0);
  EXPECT_DOUBLE_EQ(s.lr(0), 1e-3);
  EXPECT_NEAR(s.lr(50), (1e-3 + 1e-4) / 2, 1e-12);
  EXPECT_NEAR(s.lr(25), 1e-4 + 9e-4 * 0.5 * (1 + std::cos(std::numbers::pi / 4)), 1e-12);
}

TEST(ScheduleTest, LinearIsAStraightLine) {
  const Schedule s = schedule("linear", 111, 10, 0);
  EXPECT_DOUBLE_EQ(s.lr(10), 1e-3);
  for (int64_t step = 11; step < 110; ++step)
    EXPECT_NEAR(s.lr(step) - s.lr(step + 1), 9e-6, 1e-12) << "step " << step;
}

TEST(ScheduleTest, ConstantStaysAtThePeakAfterWarmUp) {
  const Schedule s = schedule("constant", 1000, 100, 0);
  EXPECT_DOUBLE_EQ(s.lr(49), 5e-4);
  for (const int64_t step : {99, 100, 500, 999}) EXPECT_DOUBLE_EQ(s.lr(step), 1e-3);
}

// Run 1: warm-up 20, plateau 400, cosine 380.
TEST(ScheduleTest, WarmupPlateauCosineHoldsThePeakThenDecays) {
  Schedule s = schedule("warmup_plateau_cosine", 800, 20, 400);
  s.peak_lr = 7e-5;
  s.min_lr = 1e-5;
  EXPECT_DOUBLE_EQ(s.lr(19), 7e-5);
  for (const int64_t step : {20, 200, 419, 420}) EXPECT_DOUBLE_EQ(s.lr(step), 7e-5) << step;
  EXPECT_LT(s.lr(421), 7e-5);
  EXPECT_EQ(s.lr(799), 1e-5);
}

// Run 5: constant to 1,000, then a new schedule to 10,000.
TEST(ScheduleTest, ExtendedRunGoesFromPeakToMinWithoutAWarmUp) {
  TrainConfig config;
  config.lr_schedule = "cosine";
  RunShape shape;
  shape.max_iters = 10000;
  shape.warmup_iters = 100;
  shape.peak_lr = 1e-3;
  shape.min_lr = 1e-4;
  const Schedule s = make_schedule(config, shape, 1000);
  EXPECT_DOUBLE_EQ(s.lr(1000), 1e-3);
  EXPECT_EQ(s.lr(9999), 1e-4);
  EXPECT_NEAR(s.lr(5500), (1e-3 + 1e-4) / 2, 1e-6);
  for (int64_t step = 1000; step < 9999; ++step) ASSERT_GT(s.lr(step), s.lr(step + 1)) << step;
}

TEST(ScheduleTest, SurvivesJson) {
  const Schedule s = schedule("warmup_plateau_cosine", 800, 20, 400);
  EXPECT_EQ(schedule_from_json(parse_json(to_json(s).dump(), "test"), "test"), s);
}

TEST(ScheduleTest, ARunOfOneStepIsAtMinLr) {
  EXPECT_EQ(schedule("cosine", 1, 0, 0).lr(0), 1e-4);
  EXPECT_EQ(schedule("constant", 1, 0, 0).lr(0), 1e-3);
}

}  // namespace
}  // namespace train_sft
