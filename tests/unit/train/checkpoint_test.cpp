#include "train_sft/train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "support/python.h"
#include "support/temporary_directory.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/file_system.h"
#include "train_sft/interop/safetensors.h"
#include "train_sft/model/engine.h"
#include "unit/train/trained_model.h"

namespace train_sft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> checkpoints_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& name : list_directory(directory))
    if (name.starts_with("step_")) names.push_back(name);
  return names;
}

template <typename Function>
std::string checkpoint_error(Function function) {
  try {
    function();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no CheckpointError was thrown";
}

TEST(CheckpointTest, Fp32StoresTheMasterOnce) {
  const TemporaryDirectory directory;
  const std::string saved = Trained(small_gpt2()).save(directory.path(), 12);
  EXPECT_EQ(base_name(saved), "step_00000012");
  const SafetensorsFile model(join_path(saved, "model.safetensors"));
  const SafetensorsFile optimizer(join_path(saved, "optimizer.safetensors"));
  const size_t parameters = parameter_layout(small_gpt2()).parameters.size();
  EXPECT_EQ(model.entries().size(), parameters);
  EXPECT_EQ(optimizer.entries().size(), 2 * parameters);
  EXPECT_NE(model.find("transformer.h.0.attn.c_attn.weight"), nullptr);
  EXPECT_EQ(model.find("lm_head.weight"), nullptr) << "tied weights are stored once";
}

class CheckpointRoundTrip
    : public ::testing::TestWithParam<std::tuple<ModelConfig, at::ScalarType>> {};

TEST_P(CheckpointRoundTrip, BringsBackEveryBit) {
  const auto [config, compute] = GetParam();
  const TemporaryDirectory directory;
  Trained trained(config, compute);
  trained.state.tokens = 1'000'000'007;
  trained.state.best_step = 3;
  trained.state.best_val_loss = 1.0 / 3;
  trained.state.schedule = {{"peak_lr", 0.1}};
  const std::string saved = trained.save(directory.path(), 12);

  Trained loaded(config, compute);
  loaded.parameters.master().zero_();
  loaded.parameters.compute().zero_();
  loaded.optimizer.exp_avg().zero_();
  loaded.optimizer.exp_avg_sq().zero_();
  const TrainState state = load_training(saved, loaded.parameters, loaded.optimizer);
  EXPECT_TRUE(loaded.parameters.master().equal(trained.parameters.master()));
  EXPECT_TRUE(loaded.parameters.compute().equal(trained.parameters.compute()));
  EXPECT_TRUE(loaded.optimizer.exp_avg().equal(trained.optimizer.exp_avg()));
  EXPECT_TRUE(loaded.optimizer.exp_avg_sq().equal(trained.optimizer.exp_avg_sq()));
  EXPECT_EQ(loaded.optimizer.t, 12);
  EXPECT_EQ(to_json(state), to_json(trained.state));

  const ModelConfig read = read_model_config(saved);
  EXPECT_EQ(read.n_layer, config.n_layer);
  EXPECT_EQ(read.family, config.family);
  EXPECT_EQ(read.tie_embeddings, config.tie_embeddings);
}

INSTANTIATE_TEST_SUITE_P(Models, CheckpointRoundTrip,
                         ::testing::Combine(::testing::Values(small_gpt2(), small_llama(),
                                                              small_qwen()),
                                            ::testing::Values(at::kFloat, at::kBFloat16)));

TEST(CheckpointTest, LinksFollowLatestAndBest) {
  const TemporaryDirectory directory;
  Trained trained(small_gpt2());
  trained.save(directory.path(), 1, true);
  trained.save(directory.path(), 2);
  EXPECT_EQ(read_link(directory / "latest"), "step_00000002");
  EXPECT_EQ(read_link(directory / "best_model"), "step_00000001");
  EXPECT_EQ(read_link(directory / "best_model.pt"), "step_00000001");
  EXPECT_EQ(base_name(resolve_checkpoint(directory / "best_model.pt")), "step_00000001");
  EXPECT_EQ(base_name(resolve_checkpoint(directory.path())), "step_00000002");
  EXPECT_THAT(checkpoint_error([&] { resolve_checkpoint(directory / "step_00000003"); }),
              AllOf(HasSubstr("step_00000003"), HasSubstr("there are step_00000001")));
}

TEST(CheckpointTest, AMissingOrShortenedFileIsNamed) {
  const TemporaryDirectory directory;
  const std::string saved = Trained(small_gpt2()).save(directory.path(), 1);
  const std::string model = join_path(saved, "model.safetensors");
  truncate_file(model, file_size(model) - 1);
  EXPECT_THAT(verify_checkpoint(saved), AllOf(HasSubstr("model.safetensors"), HasSubstr("bytes")));
  remove_tree(model);
  EXPECT_THAT(verify_checkpoint(saved),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("missing")));
  EXPECT_EQ(newest_valid_checkpoint(directory.path()), "");
}

TEST(CheckpointTest, AnotherModelShapeIsRefusedNamingTheFirstDifference) {
  const TemporaryDirectory directory;
  const std::string saved = Trained(small_gpt2()).save(directory.path(), 1);
  ModelConfig other = small_gpt2();
  other.n_layer = 3;
  other.n_embd = 32;
  Trained wanted(other);
  EXPECT_THAT(checkpoint_error([&] { load_weights(saved, wanted.parameters); }),
              HasSubstr("n_layer is 2 in the checkpoint and 3"));
  EXPECT_THAT(checkpoint_error([&] { load_training(saved, wanted.parameters, wanted.optimizer); }),
              HasSubstr("n_layer"));
}

TEST(CheckpointTest, NonFiniteWeightsAreNotSaved) {
  const TemporaryDirectory directory;
  Trained trained(small_gpt2());
  trained.save(directory.path(), 1);
  trained.parameters.master().data_ptr<float>()[3] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(trained.save(directory.path(), 2), DivergedError);
  EXPECT_THAT(checkpoints_in(directory.path()), ElementsAre("step_00000001"));
  EXPECT_EQ(read_link(directory / "latest"), "step_00000001");
}

// Reports a full disk, without one.
class FullDisk : public ForwardingFileSystem {
 public:
  FullDisk() : ForwardingFileSystem(posix_file_system()) {}
  int statvfs(const std::string& path, struct ::statvfs& status) override {
    const int result = ForwardingFileSystem::statvfs(path, status);
    status.f_bavail = 10;
    return result;
  }
};

TEST(CheckpointTest, AFullDiskIsSaidBeforeAnythingIsWritten) {
  const TemporaryDirectory directory;
  Trained trained(small_gpt2());
  FullDisk disk;
  const ScopedFileSystem scope(disk);
  EXPECT_THROW(trained.save(directory.path(), 1), ResourceError);
  EXPECT_TRUE(list_directory(directory.path()).empty());
}

TEST(CheckpointTest, RetentionKeepsTheNewestBestAndLatest) {
  const TemporaryDirectory directory;
  Trained trained(small_gpt2());
  for (int64_t step = 1; step <= 6; ++step) trained.save(directory.path(), step, step == 2);
  make_directories(directory / "step_00000000");  // not ours: no manifest
  apply_retention(directory.path(), 3, 1);
  EXPECT_THAT(checkpoints_in(directory.path()),
              ElementsAre("step_00000000", "step_00000002", "step_00000004", "step_00000005",
                          "step_00000006"));
  const auto has_optimizer = [&](const char* name) {
    return path_exists(join_path(directory / name, "optimizer.safetensors"));
  };
  EXPECT_TRUE(has_optimizer("step_00000002")) << "best";
  EXPECT_FALSE(has_optimizer("step_00000004"));
  EXPECT_FALSE(has_optimizer("step_00000005"));
  EXPECT_TRUE(has_optimizer("step_00000006")) << "latest";
  EXPECT_EQ(verify_checkpoint(directory / "step_00000004"), "") << "thinned, and still valid";
  EXPECT_THAT(checkpoint_error([&] {
                load_training(directory / "step_00000004", trained.parameters, trained.optimizer);
              }),
              HasSubstr("weights only"));
}

TEST(CheckpointTest, KeepZeroKeepsAll) {
  const TemporaryDirectory directory;
  Trained trained(small_gpt2());
  for (int64_t step = 1; step <= 5; ++step) trained.save(directory.path(), step);
  apply_retention(directory.path(), 0, 2);
  EXPECT_EQ(checkpoints_in(directory.path()).size(), 5u);
}

TEST(CheckpointTest, OnlyOurOwnLeftoversAreCleared) {
  const TemporaryDirectory directory;
  for (const char* name : {".saving_step_00000007", ".removing_step_00000003", ".saving_notes",
                           ".saving_step_7", "step_00000001"})
    make_directories(directory / name);
  remove_leftovers(directory.path());
  EXPECT_THAT(list_directory(directory.path()),
              ElementsAre(".saving_notes", ".saving_step_7", "step_00000001"));
}

TEST(CheckpointTest, CheckpointsBeyondAResumePointAreKeptUnderAnotherName) {
  const TemporaryDirectory directory;
  Trained trained(small_gpt2());
  trained.save(directory.path(), 1);
  trained.save(directory.path(), 2, true);
  supersede_checkpoints_after(directory.path(), 1);
  EXPECT_THAT(checkpoints_in(directory.path()), ElementsAre("step_00000001"));
  EXPECT_EQ(verify_checkpoint(directory / "superseded_step_00000002"), "");
  EXPECT_EQ(read_link(directory / "latest"), "step_00000001");
  EXPECT_EQ(newest_valid_checkpoint(directory.path()), directory / "step_00000001");
}

constexpr const char* kTransformers = R"(
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
for name, tolerance in [('gpt2', 1e-4), ('llama', 1e-4), ('qwen', 1e-4), ('bf16', 3e-2)]:
    expected = load_file(f'{folder}/{name}/expected.safetensors')
    model = AutoModelForCausalLM.from_pretrained(f'{folder}/{name}/latest')
    with torch.no_grad():
        logits = model(expected['ids'][None]).logits[0].float()
    assert logits.abs().max() > 0.1
    worst = (logits - expected['logits']).abs().max().item()
    assert worst < tolerance, f'{name}: logits differ by {worst}'
)";

TEST(CheckpointTest, TransformersLoadsItWithEqualLogits) {
  const TemporaryDirectory directory;
  const auto write = [&](const std::string& name, const ModelConfig& config,
                         at::ScalarType compute) {
    Trained trained(config, compute);
    trained.save(directory / name, 5);
    Batch batch;
    std::vector<int64_t> ids;
    for (int32_t i = 0; i < 20; ++i) {
      batch.tokens.push_back((7 * i + 3) % static_cast<int32_t>(config.vocab_size));
      batch.targets.push_back(kNoTarget);
      batch.positions.push_back(i);
      ids.push_back(batch.tokens.back());
    }
    batch.cu_seqlens = {0, 20};
    batch.example_ids = {0};
    batch.max_seqlen = 20;
    batch.rows = 1;
    Engine engine(trained.parameters, {});
    const at::Tensor logits = engine.logits(batch).to(at::kFloat).contiguous();
    write_safetensors(
        join_path(directory / name, "expected.safetensors"),
        {{"ids", "I64", {20}, std::as_bytes(std::span(ids))},
         {"logits",
          "F32",
          {20, config.vocab_size},
          std::span(static_cast<const std::byte*>(logits.const_data_ptr()), logits.nbytes())}});
  };
  write("gpt2", small_gpt2(), at::kFloat);
  write("llama", small_llama(), at::kFloat);
  write("qwen", small_qwen(), at::kFloat);
  write("bf16", small_llama(), at::kBFloat16);
  const PythonResult result = run_python(kTransformers, {directory.path()});
  if (!result.available) GTEST_SKIP() << result.output;
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

}  // namespace
}  // namespace train_sft
