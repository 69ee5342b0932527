// The engine against transformers: loss, logits and every gradient of tiny random models that
// make_transformers_models.py wrote into the folder named by TRAIN_SFT_TRANSFORMERS_MODELS.
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/interop/safetensors.h"
#include "train_sft/model/engine.h"

namespace train_sft {
namespace {

std::string models_folder() {
  const char* folder = std::getenv("TRAIN_SFT_TRANSFORMERS_MODELS");
  return folder == nullptr ? "" : folder;
}

at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name, at::ScalarType dtype) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw DataError("no tensor '{}'", name);
  return at::from_blob(const_cast<std::byte*>(entry->bytes.data()), entry->shape,
                       at::TensorOptions().dtype(dtype))
      .clone();
}

// Rows of tokens [B, T]; the last token of each has no target.
Batch batch_of(const at::Tensor& tokens) {
  Batch batch;
  const int64_t T = tokens.size(1);
  for (int64_t row = 0; row < tokens.size(0); ++row) {
    batch.cu_seqlens.push_back(static_cast<int32_t>(row * T));
    batch.example_ids.push_back(static_cast<uint64_t>(row));
    for (int64_t t = 0; t < T; ++t) {
      batch.tokens.push_back(tokens[row][t].item<int32_t>());
      batch.targets.push_back(t + 1 < T ? tokens[row][t + 1].item<int32_t>() : kNoTarget);
      batch.positions.push_back(static_cast<int32_t>(t));
      if (t + 1 < T) batch.learned.push_back(static_cast<int32_t>(row * T + t));
    }
  }
  batch.cu_seqlens.push_back(static_cast<int32_t>(batch.size()));
  batch.max_seqlen = static_cast<int32_t>(T);
  batch.rows = tokens.size(0);
  return batch;
}

double relative_l2(const at::Tensor& got, const at::Tensor& expected) {
  return got.sub(expected).norm().item<double>() / expected.norm().item<double>();
}

class TransformersTest : public testing::TestWithParam<const char*> {};

TEST_P(TransformersTest, LossLogitsAndGradientsAgree) {
  const std::string folder = join_path(models_folder(), GetParam());
  const std::string config_path = join_path(folder, "config.json");
  const ModelConfig config = from_huggingface(read_json_file(config_path), config_path);
  const SafetensorsFile weights(join_path(folder, "model.safetensors"));
  const SafetensorsFile expected(join_path(folder, "expected.safetensors"));

  Parameters parameters(config, at::kFloat, at::kFloat);
  ASSERT_EQ(weights.entries().size(), parameters.layout().parameters.size());
  for (const ParameterInfo& info : parameters.layout().parameters)
    parameters.master(info.name).copy_(tensor_of(weights, info.name, at::kFloat));

  const Batch batch = batch_of(tensor_of(expected, "tokens", at::kInt));
  Engine engine(parameters, {});
  const at::Tensor want = tensor_of(expected, "logits", at::kFloat);
  EXPECT_LE(relative_l2(engine.logits(batch), want.view({batch.size(), -1})), 1e-4);
  const double loss = tensor_of(expected, "loss", at::kFloat).item<double>();
  EXPECT_NEAR(engine.forward_backward(batch, 0).loss / loss, 1.0, 1e-4);
  for (const ParameterInfo& info : parameters.layout().parameters) {
    const at::Tensor gradient = tensor_of(expected, "grad." + info.name, at::kFloat);
    EXPECT_LE(relative_l2(parameters.gradient(info.name), gradient), 1e-4) << info.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TransformersTest,
                         testing::Values("gpt2", "gpt2_untied", "llama", "llama_tied", "qwen2",
                                         "qwen3", "wide_llama"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace train_sft
