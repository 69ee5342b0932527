// A run that was cut goes on as if nothing had happened; a run that would become another is
// refused.
#include <gmock/gmock.h>

#include <csignal>

#include "train/ending.h"
#include "train/evaluate.h"
#include "train/step.h"
#include "train_sft/base/file_system.h"
#include "train_sft/base/signals.h"
#include "train_sft/interop/safetensors.h"
#include "train_sft/train/checkpoint.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ResumeTest : public TrainingTest {
 protected:
  Settings resumed(const std::string& from = "auto") {
    Settings settings = tiny();
    set(settings, "resume", from);
    return settings;
  }
  // The run as it was when only the checkpoints up to `step` had been written.
  static void copy_as_of(const std::string& from, const std::string& to, int64_t step) {
    std::filesystem::copy(
        from, to,
        std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
    for (const auto& name : list_directory(to))
      if (name.starts_with("step_") && std::stoll(name.substr(5)) > step)
        remove_tree(join_path(to, name));
  }
};

class ResumeBitExact : public ResumeTest,
                       public ::testing::WithParamInterface<std::tuple<const char*, int>> {};

TEST_P(ResumeBitExact, ARunCutAtAStepEqualsTheUncutOne) {
  const auto [precision, cut] = GetParam();
  Settings settings = tiny();
  set(settings, "precision", precision);
  set(settings, "dropout", 0.1);
  set(settings, "save_interval", 1);
  set(settings, "keep", 0);
  set(settings, "keep_optimizer", 100);
  set(settings, "use_tensorboard", true);
  ASSERT_EQ(train(settings).summary["step"], 12);

  copy_as_of("out", "cut", cut);
  set(settings, "out_dir", "cut");
  set(settings, "resume", "auto");
  ASSERT_EQ(train(settings).summary["step"], 12);
  expect_same_files("out/step_00000012", "cut/step_00000012",
                    {"model.safetensors", "optimizer.safetensors"});
  for (const char* key : {"step", "loss", "lr", "grad_norm", "val_loss", "tokens", "examples"})
    EXPECT_EQ(column("out", key), column("cut", key)) << key;
  EXPECT_EQ(column("cut", "step").size(), 12u);
  EXPECT_EQ(read_link("out/best_model"), read_link("cut/best_model"));
}

INSTANTIATE_TEST_SUITE_P(Cuts, ResumeBitExact,
                         ::testing::Combine(::testing::Values("fp32", "bf16"),
                                            ::testing::Values(1, 4, 7, 11)));

// Each schedule with each packing; precision and accumulation change along.
TEST_F(ResumeTest, EveryScheduleAndPackingGoesOnBitForBit) {
  write_conversations("chats.jsonl", 200);
  int number = 0;
  for (const char* schedule : {"constant", "linear", "cosine", "warmup_plateau_cosine"}) {
    for (const char* packing : {"none", "best_fit", "sequential"}) {
      const std::string whole = fmt::format("whole{}", number), cut = fmt::format("cut{}", number);
      SCOPED_TRACE(fmt::format("{}, packing {}, number {}", schedule, packing, number));
      Settings settings = tiny();
      if (std::string_view(packing) != "sequential") set(settings, "data", {"chats.jsonl"});
      set(settings, "block_size", 64);
      set(settings, "lr_schedule", schedule);
      set(settings, "packing", packing);
      set(settings, "precision", number % 2 == 0 ? "fp32" : "bf16");
      set(settings, "grad_accum", 1 + number % 3);
      set(settings, "batch_size", 2);
      set(settings, "dropout", 0.1);
      const int step = 5 + number % 3;
      set(settings, "save_interval", step);
      set(settings, "keep", 0);
      set(settings, "keep_optimizer", 100);
      set(settings, "out_dir", whole);
      ASSERT_EQ(train(settings).summary["step"], 12);
      copy_as_of(whole, cut, step);
      set(settings, "out_dir", cut);
      set(settings, "resume", "auto");
      ASSERT_EQ(train(settings).summary["step"], 12);
      expect_same_files(whole + "/step_00000012", cut + "/step_00000012",
                        {"model.safetensors", "optimizer.safetensors"});
      for (const char* key : {"loss", "lr", "val_loss"})
        EXPECT_EQ(column(whole, key), column(cut, key)) << key;
      ++number;
    }
  }
}

TEST_F(ResumeTest, MuonGoesOnBitForBitAndKeepsOneMoment) {
  Settings settings = tiny();
  set(settings, "optimizer", "muon");
  set(settings, "family", "gpt2");
  set(settings, "save_interval", 1);
  set(settings, "keep", 0);
  set(settings, "keep_optimizer", 100);
  train(settings);
  copy_as_of("out", "cut", 5);
  set(settings, "out_dir", "cut");
  set(settings, "resume", "auto");
  ASSERT_EQ(train(settings).summary["step"], 12);
  expect_same_files("out/step_00000012", "cut/step_00000012",
                    {"model.safetensors", "optimizer.safetensors"});
  EXPECT_EQ(column("out", "loss"), column("cut", "loss"));
  EXPECT_LT(column("out", "loss").back(), column("out", "loss").front());
  const SafetensorsFile state("out/step_00000012/optimizer.safetensors");
  EXPECT_NE(state.find("exp_avg/transformer.h.0.mlp.c_fc.weight"), nullptr);
  EXPECT_EQ(state.find("exp_avg_sq/transformer.h.0.mlp.c_fc.weight"), nullptr);
  EXPECT_NE(state.find("exp_avg_sq/transformer.wte.weight"), nullptr);
  set(settings, "optimizer", "adamw");
  EXPECT_THAT(message_of<UsageError>(settings), AllOf(HasSubstr("optimizer"), HasSubstr("muon")));
}

// Sends a signal when the n-th line of metrics is written.
class SignalAtStep : public ForwardingFileSystem {
 public:
  SignalAtStep(int number, int step)
      : ForwardingFileSystem(posix_file_system()), number_(number), left_(step) {}
  ssize_t write(int fd, const void* bytes, size_t count) override {
    const std::string_view text(static_cast<const char*>(bytes), count);
    if (text.starts_with("{\"step\":") && --left_ == 0) std::raise(number_);
    return ForwardingFileSystem::write(fd, bytes, count);
  }

 private:
  int number_, left_;
};

class ResumeAfterSignal : public ResumeTest, public ::testing::WithParamInterface<int> {};

TEST_P(ResumeAfterSignal, ASignalSavesAndTheRunGoesOn) {
  Settings settings = tiny();
  set(settings, "grad_accum", 2);
  train(settings);
  set(settings, "out_dir", "cut");
  signals::install();
  {
    SignalAtStep signal(GetParam(), 6);
    const ScopedFileSystem scope(signal);
    const TrainingResult stopped = train(settings);
    EXPECT_EQ(static_cast<int>(stopped.code), 128 + GetParam());
    EXPECT_EQ(stopped.stopped_by, "signal");
    EXPECT_EQ(stopped.summary["step"], 6);
    EXPECT_EQ(verify_checkpoint("cut/step_00000006"), "");
  }
  signals::clear_stop();
  set(settings, "resume", "auto");
  EXPECT_EQ(train(settings).stopped_by, "max_iters");
  expect_same_files("out/step_00000012", "cut/step_00000012",
                    {"model.safetensors", "optimizer.safetensors"});
}

INSTANTIATE_TEST_SUITE_P(Signals, ResumeAfterSignal, ::testing::Values(SIGTERM, SIGINT));

TEST_F(ResumeTest, AStopBetweenMicroBatchesLeavesTheStepUndone) {
  Settings settings = tiny();
  set(settings, "grad_accum", 4);
  const auto run = set_up_run(settings);
  take_step(*run);
  const Json before = to_json(run->state);
  const at::Tensor master = run->parameters->master().clone();
  signals::install();
  std::raise(SIGTERM);
  const StepOutcome outcome = take_step(*run);
  signals::clear_stop();
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_EQ(to_json(run->state), before);
  EXPECT_TRUE(run->parameters->master().equal(master));
  EXPECT_FALSE(take_step(*run).interrupted) << "the step can be done again";
}

TEST_F(ResumeTest, AStopDuringAnEvaluationIsMadeUpFor) {
  Settings settings = tiny();
  train(settings);
  set(settings, "out_dir", "cut");
  {
    const auto run = set_up_run(settings);
    Loop loop(*run);
    for (int step = 1; step <= 4; ++step) {
      const StepOutcome outcome = take_step(*run);
      loop.reporter.step_done(outcome);
      if (step < 4) loop.reporter.report(outcome, {});
      if (step == 4) run->state.unreported = to_json(outcome);
    }
    signals::install();
    std::raise(SIGTERM);
    EXPECT_FALSE(evaluate(*run).has_value());
    EXPECT_EQ(finish(loop, Ending::signal).code, ExitCode::terminated);
    signals::clear_stop();
  }
  set(settings, "resume", "auto");
  train(settings);
  for (const char* key : {"step", "loss", "lr", "grad_norm", "val_loss"})
    EXPECT_EQ(column("out", key), column("cut", key)) << key;
  EXPECT_EQ(read_train_state("out/latest").best_step, read_train_state("cut/latest").best_step);
}

// The request is shared with the other ranks by the step that follows, which then saves.
TEST_F(ResumeTest, Sigusr1SavesAndGoesOn) {
  Settings settings = tiny();
  set(settings, "save_interval", 100);
  set(settings, "eval_interval", -1);
  signals::install();
  SignalAtStep signal(SIGUSR1, 5);
  const ScopedFileSystem scope(signal);
  EXPECT_EQ(train(settings).stopped_by, "max_iters");
  EXPECT_EQ(verify_checkpoint("out/step_00000006"), "");
  EXPECT_EQ(verify_checkpoint("out/step_00000012"), "");
}

TEST_F(ResumeTest, AutoWithoutACheckpointStartsANewRun) {
  EXPECT_EQ(train(resumed()).summary["step"], 12);
}

TEST_F(ResumeTest, AutoPassesOverADamagedCheckpoint) {
  train(tiny());
  std::ofstream("out/step_00000012/model.safetensors", std::ios::app) << "x";
  ASSERT_NE(verify_checkpoint("out/step_00000012"), "");
  const TrainingResult result = train(resumed());
  EXPECT_EQ(result.summary["step"], 12);
  EXPECT_EQ(verify_checkpoint("out/step_00000012"), "") << "written again";
  EXPECT_EQ(column("out", "step").size(), 12u);
}

TEST_F(ResumeTest, ANamedDamagedCheckpointIsRefusedByName) {
  train(tiny());
  std::ofstream("out/step_00000012/model.safetensors", std::ios::app) << "x";
  EXPECT_THAT(message_of<CheckpointError>(resumed("out/step_00000012")),
              HasSubstr("model.safetensors"));
}

TEST_F(ResumeTest, NoFlagsAreNeededBesideResume) {
  train(tiny());
  copy_as_of("out", "cut", 8);
  Settings bare;
  set(bare, "resume", "auto");
  set(bare, "out_dir", "cut");
  train(bare);
  expect_same_files("out/step_00000012", "cut/step_00000012", {"model.safetensors"});
}

TEST_F(ResumeTest, AnotherMicroBatchSeesTheSameRowsInTheSameSteps) {
  train(tiny());
  copy_as_of("out", "cut", 8);
  Settings settings = resumed();
  set(settings, "out_dir", "cut");
  set(settings, "batch_size", 2);
  set(settings, "grad_accum", 2);
  train(settings);
  const auto whole = column("out", "loss"), cut = column("cut", "loss");
  ASSERT_EQ(whole.size(), cut.size());
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(whole[i], cut[i], 1e-4) << "step " << i + 1;
}

TEST_F(ResumeTest, ChangesThatMakeItAnotherRunAreRefused) {
  train(tiny());
  const auto refusal = [&](const char* name, const Json& value) {
    Settings settings = resumed();
    set(settings, name, value);
    try {
      train(settings);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("was accepted");
  };
  EXPECT_THAT(refusal("max_iters", 20), AllOf(HasSubstr("max_iters"), HasSubstr("extend_steps")));
  EXPECT_THAT(refusal("learning_rate", 1e-3), HasSubstr("learning_rate"));
  EXPECT_THAT(refusal("n_layer", 2), HasSubstr("n_layer"));
  EXPECT_THAT(refusal("seed", 5), HasSubstr("seed"));
  EXPECT_THAT(refusal("batch_size", 2), HasSubstr("rows a step"));
  EXPECT_THAT(refusal("precision", "bf16"), HasSubstr("precision"));
}

TEST_F(ResumeTest, ChangedDataAreRefusedUnlessOverridden) {
  train(tiny());
  write_text("data.txt", 500, 2);
  Settings settings = resumed();
  EXPECT_THAT(message_of<CheckpointError>(settings),
              AllOf(HasSubstr("training data"), HasSubstr("overwrite_data_check")));
  set(settings, "overwrite_data_check", true);
  EXPECT_EQ(train(settings).summary["step"], 12);
}

TEST_F(ResumeTest, AnotherTokenizerIsRefused) {
  train(tiny());
  write_text("other.txt", 50);
  std::ofstream("other.txt", std::ios::app) << "0123456789";
  Settings other = tiny();
  set(other, "data", {"other.txt"});
  set(other, "out_dir", "other");
  set(other, "max_iters", 2);
  train(other);
  Settings settings = resumed();
  settings.source.erase("tokenizer_type");
  set(settings, "tokenizer", "other/tokenizer/tokenizer.model");
  EXPECT_THAT(message_of<CheckpointError>(settings), HasSubstr("is not the tokenizer of"));
}

TEST_F(ResumeTest, ADirectoryThatHoldsAnotherRunIsRefused) {
  train(tiny());
  EXPECT_THAT(message_of<UsageError>(tiny()),
              AllOf(HasSubstr("out"), HasSubstr("--resume auto"), HasSubstr("--out_dir")));
}

TEST_F(ResumeTest, ExtendGoesOnWithANewScheduleFromPeakToMin) {
  Settings settings = tiny();
  set(settings, "lr_schedule", "constant");
  set(settings, "save_interval", 4);
  train(settings);

  Settings extension;
  set(extension, "resume", "out/latest");
  set(extension, "extend_steps", 20);
  const TrainingResult result = train(extension);
  EXPECT_EQ(result.summary["step"], 20);
  const auto lr = column("out", "lr");
  ASSERT_EQ(lr.size(), 20u);
  EXPECT_DOUBLE_EQ(lr[11], 1e-2) << "constant before";
  EXPECT_DOUBLE_EQ(lr[12], 1e-2) << "from the peak";
  for (size_t i = 13; i < 20; ++i) EXPECT_LT(lr[i], lr[i - 1]) << i;
  EXPECT_DOUBLE_EQ(lr[19], 1e-3) << "to a tenth";

  // Cut inside the extension and told the same again: it goes on, it does not begin anew.
  copy_as_of("out", "cut", 16);
  set(extension, "resume", "auto");
  set(extension, "out_dir", "cut");
  train(extension);
  EXPECT_EQ(column("cut", "lr"), lr);
  expect_same_files("out/step_00000020", "cut/step_00000020", {"model.safetensors"});

  set(extension, "extend_steps", 15);
  EXPECT_THAT(message_of<UsageError>(extension),
              AllOf(HasSubstr("extend_steps"), HasSubstr("not beyond step 20")));
}

TEST_F(ResumeTest, ExtendFromBestKeepsTheOtherBranchAside) {
  Settings settings = tiny();
  set(settings, "save_interval", 4);
  train(settings);
  Settings extension;
  set(extension, "resume", "out/step_00000008");
  set(extension, "extend_steps", 16);
  train(extension);
  EXPECT_EQ(verify_checkpoint("out/superseded_step_00000012"), "");
  EXPECT_EQ(verify_checkpoint("out/step_00000012"), "");
  EXPECT_EQ(column("out", "step").size(), 16u) << "each step once";
}

TEST_F(ResumeTest, AFreshScheduleTakesTheWeightsOnly) {
  train(tiny());
  Settings settings = resumed("out/best_model.pt");
  settings.source.erase("out_dir");
  settings.config.out_dir.clear();
  set(settings, "fresh_schedule", true);
  set(settings, "max_iters", 5);
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.summary["out_dir"], "checkpoints_restart");
  EXPECT_EQ(result.summary["step"], 5);
  EXPECT_LT(column("checkpoints_restart", "loss").at(0), column("out", "loss").at(0) - 0.1)
      << "the weights were taken";
  EXPECT_EQ(read_train_state("checkpoints_restart/latest").adam_t, 5);
}

TEST_F(ResumeTest, AnotherConfigurationStartsAFreshSchedule) {
  Settings first = tiny();
  first.source.clear();
  for (const Option& option : option_table())
    if (tiny().given(option.name)) first.source[option.name] = "configs/short.json";
  train(first);

  Settings other = first;
  set(other, "resume", "out/best_model.pt");
  EXPECT_EQ(train(other).summary["out_dir"], "out") << "the same configuration resumes";

  for (auto& [name, source] : other.source)
    if (source != "command line") source = "configs/long.json";
  other.source.erase("out_dir");
  other.config.out_dir.clear();
  set(other, "max_iters", 7, "configs/long.json");
  const TrainingResult result = train(other);
  EXPECT_EQ(result.summary["out_dir"], "checkpoints_restart");
  EXPECT_EQ(result.summary["step"], 7);
}

TEST_F(ResumeTest, PretrainedWeightsStartAtStepZeroInTheirOwnDirectory) {
  Settings base = tiny();
  set(base, "block_size", 64);
  train(base);
  write_conversations("chat.jsonl", 40);
  Settings settings;
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, Json>>{{"pretrained_model", "out/best_model.pt"},
                                                 {"data", {"chat.jsonl"}},
                                                 {"max_iters", 3},
                                                 {"overlong", "truncate"},
                                                 {"threads", 1},
                                                 {"batch_size", 4},
                                                 {"log_interval", 1}})
    set(settings, name, value);
  const TrainingResult result = train(settings);
  EXPECT_EQ(result.summary["out_dir"], "checkpoints_instruct");
  EXPECT_EQ(result.summary["step"], 3);
  EXPECT_EQ(read_model_config("checkpoints_instruct/latest"), read_model_config("out/latest"));
}

}  // namespace
}  // namespace train_sft
