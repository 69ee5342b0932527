#include "train/ranks.h"

#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "support/fake_collective.h"
#include "train/step.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

using Call = FakeCollective::Call;

TEST(OwnMicroBatchesTest, EveryRowOnceWhateverTheProcesses) {
  for (const int64_t ranks : {1, 2, 4})
    for (const int64_t grad_accum : {1, 3})
      for (const int processes : {1, 2, 3, 4})
        for (uint64_t rows = 0; rows <= static_cast<uint64_t>(2 * grad_accum * ranks); ++rows) {
          const BatchShape batch{2, grad_accum, ranks, 16};
          std::set<uint64_t> seen;
          for (int p = 0; p < processes; ++p)
            for (const StepRows& micro : own_micro_batches(batch, rows, p, processes)) {
              EXPECT_LE(micro.end - micro.first, 2u);
              EXPECT_EQ(micro.first / 2 % static_cast<uint64_t>(processes),
                        static_cast<uint64_t>(p));
              for (uint64_t row = micro.first; row < micro.end; ++row)
                EXPECT_TRUE(seen.insert(row).second) << "row " << row << " twice";
            }
          EXPECT_EQ(seen.size(), rows) << ranks << " ranks, " << processes << " processes";
        }
}

// Micro-batch m of rank r: rows [(m·R + r)·b, +b).
TEST(OwnMicroBatchesTest, WithAsManyProcessesAsRanksEachIsOneRank) {
  const auto own = own_micro_batches({2, 3, 4, 16}, 24, 1, 4);
  ASSERT_EQ(own.size(), 3u);
  for (uint64_t m = 0; m < 3; ++m) {
    EXPECT_EQ(own[m].first, (m * 4 + 1) * 2);
    EXPECT_EQ(own[m].end, (m * 4 + 1) * 2 + 2);
  }
}

TEST(GradientRangesTest, CoverEveryTrainedParameterOnceFromTheTopDown) {
  ModelConfig model;
  model.n_layer = 5;
  model.n_head = 2;
  model.n_embd = 16;
  model.vocab_size = 100;
  model.block_size = 32;
  for (const bool tied : {true, false})
    for (const int64_t least : {int64_t{1}, int64_t{5000}, int64_t{1} << 30}) {
      model.tie_embeddings = tied;
      const ParameterLayout layout = parameter_layout(model);
      const auto ranges = GradientReduction::ranges_of(layout, least);
      for (const ParameterInfo& info : layout.parameters) {
        int holders = 0;
        for (const auto& range : ranges)
          holders += info.trained_offset >= range.offset &&
                     info.trained_offset + info.numel <= range.offset + range.numel;
        EXPECT_EQ(holders, 1) << info.name;
      }
      for (size_t i = 1; i < ranges.size(); ++i) {
        EXPECT_LT(ranges[i].layer, ranges[i - 1].layer);
        EXPECT_LE(ranges[i].offset + ranges[i].numel, ranges[i - 1].offset);
        EXPECT_GE(ranges[i - 1].numel, least);
      }
      const size_t expected = least == 1 ? 7 : least > 1'000'000 ? 1 : ranges.size();
      EXPECT_EQ(ranges.size(), expected);
    }
}

class RanksTest : public TrainingTest {
 protected:
  // Two processes, the other doing what this one does.
  std::unique_ptr<train_sft::Run> start(FakeCollective& fake, int64_t grad_accum = 1) {
    Settings settings = tiny();
    set(settings, "grad_accum", grad_accum);
    auto run = set_up_run(settings, fake);
    fake.calls.clear();
    return run;
  }
};

TEST_F(RanksTest, AStepReducesEachGradientOnceAndExchangesNumbersOnce) {
  for (const int64_t grad_accum : {1, 3}) {
    FakeCollective fake(2);
    const auto run = start(fake, grad_accum);
    take_step(*run);
    // The tiny model's gradients are one range; nothing goes out on inner micro-steps.
    const auto bytes = static_cast<uint64_t>(run->parameters->gradients().nbytes());
    ASSERT_EQ(fake.calls.size(), 2u);
    EXPECT_EQ(fake.calls[0].what, "all_reduce");
    EXPECT_LE(fake.calls[0].bytes, bytes);
    EXPECT_GE(fake.calls[0].bytes, bytes - 64);  // but for the gap at the end
    EXPECT_EQ(fake.calls[1], (Call{"exchange", "sums of the step", 7 * sizeof(double)}));
    run.get()->lock.reset();
    std::filesystem::remove_all("out");
  }
}

TEST_F(RanksTest, APeerThatIsGoneEndsTheStepBeforeTheUpdate) {
  FakeCollective fake(2);
  const auto run = start(fake);
  const at::Tensor before = run->parameters->master().clone();
  for (const int64_t call : {0, 1}) {
    fake.calls.clear();
    fake.fails_at = call;
    EXPECT_THROW(take_step(*run), LostProcesses);
    EXPECT_TRUE(run->parameters->master().equal(before));
    EXPECT_EQ(run->state.step, 0);
    run->reduction = std::make_unique<GradientReduction>(fake, *run->parameters);
  }
}

std::string with_number(const std::string& mine, size_t place, double value) {
  std::string changed = mine;
  std::memcpy(changed.data() + place * sizeof(double), &value, sizeof(double));
  return changed;
}

// What any rank says holds for all.
TEST_F(RanksTest, AStopAnywhereStopsTheStepHere) {
  FakeCollective fake(2);
  const auto run = start(fake);
  fake.answer = [](int, const std::string&, const std::string& mine) {
    return with_number(mine, 4, static_cast<double>(ExitCode::terminated));
  };
  const StepOutcome outcome = take_step(*run);
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_EQ(run->stop_code, ExitCode::terminated);
  EXPECT_EQ(run->state.step, 0);
}

TEST_F(RanksTest, RowsCutOnAnotherRankAreCutHereAndASaveAskedForThereIsMadeHere) {
  FakeCollective fake(2);
  const auto run = start(fake);
  EXPECT_EQ(run->state.micro_rows, 4);
  fake.answer = [](int, const std::string&, const std::string& mine) {
    return with_number(with_number(mine, 5, 2), 6, 1);
  };
  const StepOutcome outcome = take_step(*run);
  EXPECT_EQ(run->state.micro_rows, 2);
  EXPECT_TRUE(outcome.save_asked);
}

TEST_F(RanksTest, ANonFiniteLossOnAnotherRankSkipsTheUpdateHere) {
  FakeCollective fake(2);
  const auto run = start(fake);
  fake.answer = [](int, const std::string&, const std::string& mine) {
    return with_number(mine, 0, std::numeric_limits<double>::quiet_NaN());
  };
  EXPECT_TRUE(take_step(*run).skipped);
  EXPECT_EQ(run->state.bad_steps, 1);
}

TEST_F(RanksTest, ARankThatIsNotTheFirstWritesNothing) {
  FakeCollective first(2), second(2, 1);
  Settings settings = tiny();
  set(settings, "sample_interval", 2);
  set(settings, "use_tensorboard", true);
  set(settings, "log_examples", true);
  train(settings, first);
  const auto files = [] {
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator("."))
      found.insert(entry.path().string() + " " +
                   std::to_string(entry.last_write_time().time_since_epoch().count()));
    return found;
  };
  const auto before = files();
  std::filesystem::remove_all("out/latest");
  for (const char* link : {"latest", "best_model", "best_model.pt"})
    std::filesystem::remove(std::string("out/") + link);
  const auto left = files();
  train(settings, second);
  EXPECT_EQ(files(), left);
  EXPECT_GT(before.size(), left.size());
}

}  // namespace
}  // namespace train_sft
