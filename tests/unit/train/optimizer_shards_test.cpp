#include "train/optimizer_shards.h"

#include <gtest/gtest.h>

#include "support/fake_collective.h"
#include "train_sft/base/error.h"
#include "unit/train/small_models.h"

namespace train_sft {
namespace {

TEST(OptimizerShardsTest, LimitsFallOnWholeParametersAndCoverEverything) {
  ModelConfig model;
  model.n_layer = 6;
  model.n_head = 2;
  model.n_embd = 32;
  model.vocab_size = 50;
  model.block_size = 32;
  const ParameterLayout layout = parameter_layout(model);
  for (const int parts : {1, 2, 3, 8, 64}) {
    const ShardLimits limits = shard_limits(layout, parts);
    ASSERT_EQ(limits.size(), static_cast<size_t>(parts) + 1);
    EXPECT_EQ(limits.front(), 0);
    EXPECT_EQ(limits.back(), layout.trained_total);
    for (size_t i = 1; i < limits.size(); ++i) {
      EXPECT_LE(limits[i - 1], limits[i]);
      EXPECT_EQ(limits[i] % 16, 0) << "updates keep their bits only at the kernels' alignment";
      for (const ParameterInfo& info : layout.parameters)
        EXPECT_FALSE(info.trained_offset < limits[i] &&
                     limits[i] < info.trained_offset + info.numel)
            << info.name << " is cut";
    }
    // Layers of equal size: none takes much more than its share.
    for (size_t i = 1; i < limits.size() && parts <= 3; ++i)
      EXPECT_LT(limits[i] - limits[i - 1], layout.trained_total / parts * 5 / 4);
  }
}

TEST(OptimizerShardsTest, LimitsOfARangeAreCountedFromItsStart) {
  EXPECT_EQ(limits_within({0, 10, 20, 30}, 5, 20), (ShardLimits{0, 5, 15, 20}));
  EXPECT_EQ(limits_within({0, 10, 20, 30}, 12, 4), (ShardLimits{0, 0, 4, 4}));
}

TEST(OptimizerShardsTest, OnlyWhatIsSharedCommunicates) {
  Parameters parameters(small_gpt2(), at::kFloat, at::kFloat);
  FakeCollective fake(2, 1);
  const OptimizerShards all(fake, parameters, false), part(fake, parameters, true);
  all.gather_weights();
  EXPECT_EQ(all.total(3), 3);
  EXPECT_EQ(all.share(), 1);
  EXPECT_TRUE(fake.calls.empty());
  EXPECT_EQ(part.total(3), 6);
  part.gather_weights();
  ASSERT_EQ(fake.calls.size(), 2u);
  EXPECT_EQ(fake.calls[1].what, "all_gather");
  EXPECT_EQ(part.own().end, parameters.layout().trained_total);
  EXPECT_GT(part.own().first, 0);
}

// Beside bfloat16 each process has the masters of its part alone, and computes with all weights.
TEST(OptimizerShardsTest, MastersOfThePartsAreThoseOfTheWhole) {
  const ModelConfig model = small_llama();
  Parameters whole(model, at::kFloat, at::kBFloat16);
  initialise(whole, 3);
  const ShardLimits limits = shard_limits(whole.layout(), 3);
  for (size_t rank = 0; rank < 3; ++rank) {
    const TrainedPart part{limits[rank], limits[rank + 1]};
    Parameters shared(model, at::kFloat, at::kBFloat16, true, {}, c10::kCPU, part);
    initialise(shared, 3);
    EXPECT_EQ(shared.master().numel(), part.end - part.first);
    EXPECT_TRUE(shared.compute().equal(whole.compute()));
    EXPECT_TRUE(shared.host_copy().master().equal(shared.master()));
    for (const ParameterInfo& info : whole.layout().parameters) {
      const bool own = part.first <= info.trained_offset && info.trained_offset < part.end;
      ASSERT_EQ(shared.has_master(info), own) << info.name;
      if (own) {
        EXPECT_TRUE(shared.master(info.name).equal(whole.master(info.name))) << info.name;
      } else {
        EXPECT_THROW(shared.master(info.name), InternalError);
      }
    }
  }
}

TEST(OptimizerShardsTest, AdaptersKeepTheirMasters) {
  Training lora;
  lora.lora_rank = 2;
  EXPECT_TRUE(shares_masters(parameter_layout(small_gpt2()), true));
  EXPECT_FALSE(shares_masters(parameter_layout(small_gpt2()), false));
  EXPECT_FALSE(shares_masters(parameter_layout(small_gpt2(), lora), true));
}

}  // namespace
}  // namespace train_sft
