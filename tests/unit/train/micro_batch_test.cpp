// Micro-batches that memory cuts are the same micro-batches.
#include "train_sft/train/micro_batch.h"

#include "train/evaluate.h"
#include "train/run_setup.h"
#include "train/step.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

TEST(MostRowsTest, FindsTheLargestThatFits) {
  for (const int64_t most : {1, 2, 7, 8, 100}) {
    for (int64_t limit = 0; limit <= most + 2; ++limit) {
      const auto fits = [&](int64_t rows) {
        EXPECT_GE(rows, 1);
        EXPECT_LE(rows, most);
        return rows <= limit;
      };
      EXPECT_EQ(most_rows(most, fits), std::min(limit, most)) << most << " " << limit;
    }
  }
}

class MicroBatchTest : public TrainingTest {
 protected:
  // 7 conversations a step, one a row, of very different lengths.
  Settings conversations() {
    write_conversations("chats.jsonl", 60);
    Settings settings = tiny();
    set(settings, "data", {"chats.jsonl"});
    set(settings, "packing", "none");
    set(settings, "block_size", 64);
    set(settings, "batch_size", 7);
    return settings;
  }

  // An arena that holds so many tokens and not one more.
  static void limit_arena(train_sft::Run& run, int64_t tokens) {
    EngineOptions options;
    options.max_arena_bytes = Engine::planned_arena_bytes(run.parameters->config(), at::kFloat,
                                                          false, Recompute::none, tokens);
    run.engine = std::make_unique<Engine>(*run.parameters, options);
  }
};

TEST_F(MicroBatchTest, TheLargestPieceIsFoundWithoutMakingBatches) {
  const auto run = set_up_run(conversations());
  for (const int64_t piece : {1, 2, 3, 7}) {
    int64_t largest = 0;
    for (uint64_t step = 0; step < run->order->steps_per_epoch(); ++step)
      for (uint64_t first = 0; first < 7; first += static_cast<uint64_t>(piece)) {
        const uint64_t end = std::min<uint64_t>(7, first + static_cast<uint64_t>(piece));
        largest = std::max(
            largest, make_batch(*run->train_rows, *run->order, step, StepRows{first, end}).size());
      }
    EXPECT_EQ(largest_piece_tokens(*run->train_rows, *run->order, run->batch, piece, 0,
                                   run->order->steps_per_epoch()),
              largest)
        << piece;
  }
}

TEST_F(MicroBatchTest, GrowthBeyondTheMemoryCutsMicroBatchesAndNotSteps) {
  const auto whole = set_up_run(conversations());
  std::vector<StepOutcome> expected;
  for (int i = 0; i < 4; ++i) expected.push_back(take_step(*whole));
  whole->lock.reset();
  Settings settings = conversations();
  set(settings, "out_dir", "cut");
  const auto run = set_up_run(settings);
  EXPECT_EQ(run->state.micro_rows, 7);
  const int64_t three = largest_piece_tokens(*run->train_rows, *run->order, run->batch, 3, 0, 4);
  limit_arena(*run, three);
  for (const StepOutcome& one : expected) {
    const StepOutcome outcome = take_step(*run);
    EXPECT_NEAR(outcome.loss, one.loss, 1e-5 * one.loss);
    EXPECT_NEAR(outcome.grad_norm, one.grad_norm, 1e-4 * one.grad_norm);
    EXPECT_EQ(outcome.tokens, one.tokens);
  }
  EXPECT_LT(run->state.micro_rows, 7);
  EXPECT_GE(run->state.micro_rows, 2);
  EXPECT_EQ(run->state.examples, whole->state.examples);
  EXPECT_EQ(train_state_from_json(to_json(run->state), "").micro_rows, run->state.micro_rows);
}

TEST_F(MicroBatchTest, EvaluationGoesOnInPieces) {
  const auto run = set_up_run(conversations());
  const double expected = evaluate(*run)->val_loss.value();
  const RowTable& rows = *run->validation_rows;
  EngineOptions options;
  {
    Engine probe(*run->parameters, options);
    for (uint64_t row = 0; row < rows.size(); ++row) probe.evaluate(make_batch(rows, row, 1));
    options.max_arena_bytes = probe.arena_bytes();
  }
  run->engine = std::make_unique<Engine>(*run->parameters, options);
  EXPECT_THROW(run->engine->evaluate(make_batch(rows, 0, rows.size())), ResourceError);
  EXPECT_NEAR(evaluate(*run)->val_loss.value(), expected, 1e-5 * expected);
  EXPECT_EQ(run->state.micro_rows, 7);
}

TEST_F(MicroBatchTest, ARowThatDoesNotFitAloneIsAnErrorThatSaysWhatHelps) {
  const auto run = set_up_run(conversations());
  limit_arena(*run, 4);
  try {
    take_step(*run);
    FAIL() << "a row of more than 4 tokens fitted";
  } catch (const ResourceError& error) {
    EXPECT_NE(std::string(error.what()).find("max_memory"), std::string::npos) << error.what();
    EXPECT_EQ(error.code(), ExitCode::resource);
  }
}

}  // namespace
}  // namespace train_sft
