// A checkpoint written beside training holds the moment its save began.
#include "train/checkpoint_saver.h"

#include <gmock/gmock.h>

#include <atomic>
#include <future>
#include <map>

#include "support/volatile_disk.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "unit/train/small_models.h"

namespace train_sft {
namespace {

// A disk on which a save waits before its first file until it is let go.
class WaitingDisk : public VolatileDisk {
 public:
  int mkdir(const std::string& path, mode_t mode) override {
    if (waits_ && path.find(".saving_") != path.npos) gate_.wait();
    return VolatileDisk::mkdir(path, mode);
  }
  void let_go() { open_.set_value(); }
  void wait_for_nothing() { waits_ = false; }

 private:
  std::promise<void> open_;
  std::shared_future<void> gate_ = open_.get_future().share();
  std::atomic<bool> waits_{true};
};

struct Kind {
  const char* name;
  at::ScalarType compute;
  Training training;
};

Training adapters() {
  Training training;
  training.lora_rank = 2;
  training.lora_alpha = 4;
  return training;
}

Training frozen_layer() {
  Training training;
  training.freeze = {"model.layers.0.*", "*embed*"};
  return training;
}

class CheckpointSaverTest : public ::testing::TestWithParam<Kind> {
 protected:
  CheckpointSaverTest()
      : parameters_(small_llama(), at::kFloat, GetParam().compute, true, GetParam().training),
        optimizer_(parameters_, {}) {
    log::set_level(log::Level::error);
    state_.schedule = state_.settings = Json::object();
    state_.base_model = "/base";
    train(1);
  }
  ~CheckpointSaverTest() override { log::set_level(log::Level::info); }

  // All that is trained becomes another value.
  void train(int64_t step) {
    const auto value = static_cast<double>(step);
    for (const ParameterInfo& info : parameters_.layout().parameters)
      if (info.trained()) parameters_.master(info.name).fill_(value);
    parameters_.refresh_compute();
    optimizer_.exp_avg().fill_(value / 8);
    optimizer_.exp_avg_sq().fill_(value / 64);
    state_.step = state_.data_step = state_.adam_t = step;
  }
  CheckpointParts parts() {
    return {&parameters_, &optimizer_, &state_, &letters_tokenizer(), nullptr};
  }
  // Every file of both checkpoints, by step and name.
  static std::map<std::string, std::string> files_in(const std::string& out_dir) {
    std::map<std::string, std::string> files;
    for (const std::string step : {"step_00000001", "step_00000002"})
      for (const std::string& name : list_directory(join_path(out_dir, step)))
        files[join_path(step, name)] = read_file(join_path(join_path(out_dir, step), name));
    return files;
  }

  Parameters parameters_;
  Optimizer optimizer_;
  TrainState state_;
};

TEST_P(CheckpointSaverTest, WhatTrainingDoesMeanwhileIsNotInIt) {
  WaitingDisk disk;
  const ScopedFileSystem scope(disk);
  CheckpointSaver saver("/run", 0, 9);
  for (const int64_t step : {1, 2}) {  // the second into the memory of the first
    train(step);
    saver.start(contents_of(parts()), true);
    EXPECT_TRUE(saver.in_flight());
    EXPECT_TRUE(step == 2 || !saver.take(false)) << "nothing can be written yet";
    train(7);
    if (step == 1) disk.let_go();
    const auto done = saver.take(true);
    ASSERT_TRUE(done);
    EXPECT_EQ(done->error, "");
    EXPECT_EQ(done->step, step);
    EXPECT_EQ(verify_checkpoint(done->directory), "");
  }
  EXPECT_FALSE(saver.in_flight());

  for (const int64_t step : {1, 2}) {
    train(step);
    save_checkpoint("/calm", parts(), true);
  }
  const auto saved = files_in("/run"), calm = files_in("/calm");
  EXPECT_GE(calm.size(), 12U);
  ASSERT_EQ(saved.size(), calm.size());
  for (const auto& [name, bytes] : calm) EXPECT_TRUE(saved.at(name) == bytes) << name;
}

TEST_P(CheckpointSaverTest, AFailureIsHandedBackAndTheNextSaveWorks) {
  WaitingDisk disk;
  const ScopedFileSystem scope(disk);
  disk.wait_for_nothing();
  bool full = true;
  disk.fault = [&](const VolatileDisk::Call& call) {
    VolatileDisk::Fault fault;
    if (full && call.path.find("optimizer") != call.path.npos) fault.error = ENOSPC;
    return fault;
  };
  CheckpointSaver saver("/run", 0, 9);
  saver.start(contents_of(parts()), true);
  auto done = saver.take(true);
  ASSERT_TRUE(done);
  EXPECT_THAT(done->error, ::testing::HasSubstr("No space left"));
  EXPECT_EQ(newest_valid_checkpoint("/run"), "");
  full = false;
  saver.start(contents_of(parts()), true);
  done = saver.take(true);
  EXPECT_EQ(done->error, "");
  EXPECT_EQ(newest_valid_checkpoint("/run"), done->directory);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CheckpointSaverTest,
                         ::testing::Values(Kind{"fp32", at::kFloat, {}},
                                           Kind{"bf16", at::kBFloat16, {}},
                                           Kind{"frozen_fp32", at::kFloat, frozen_layer()},
                                           Kind{"frozen_bf16", at::kBFloat16, frozen_layer()},
                                           Kind{"lora_fp32", at::kFloat, adapters()},
                                           Kind{"lora_bf16", at::kBFloat16, adapters()}),
                         [](const auto& kind) { return std::string(kind.param.name); });

}  // namespace
}  // namespace train_sft
