// Figures worked out by hand.
#include "train_sft/plan/communication.h"

#include <gtest/gtest.h>

#include "train_sft/base/error.h"
#include "train_sft/plan/device_table.h"

namespace train_sft {
namespace {

TEST(CommunicationTest, BytesOfCollectives) {
  // 8 ranks, a buffer of 800 bytes in pieces of 100: each sends 7 pieces to reduce and 7 to gather.
  EXPECT_DOUBLE_EQ(reduce_scatter_bytes(800, 8), 700);
  EXPECT_DOUBLE_EQ(all_gather_bytes(800, 8), 700);
  EXPECT_DOUBLE_EQ(all_reduce_bytes(800, 8), 1400);
  EXPECT_DOUBLE_EQ(all_reduce_bytes(800, 2), 800);
  EXPECT_DOUBLE_EQ(all_reduce_bytes(800, 1), 0);
}

TEST(CommunicationTest, ARingIsAsFastAsTheSlowestLinkItUses) {
  const Links links{.device_bytes_per_s = 450e9, .node_bytes_per_s = 50e9};
  // 1.2B gradients in fp32 over 8 devices: 2 · 7/8 · 4.8 GB = 8.4 GB, at 450 GB/s.
  const double sent = all_reduce_bytes(4.8e9, 8);
  EXPECT_DOUBLE_EQ(sent, 8.4e9);
  EXPECT_NEAR(*ring_ms(sent, {8, 1}, links), 18.6667, 1e-3);
  EXPECT_NEAR(*ring_ms(sent, {8, 4}, links), 168, 1e-9);  // 8.4 GB at 50 GB/s
  EXPECT_NEAR(*ring_ms(sent, {1, 8}, links), 168, 1e-9);
  EXPECT_EQ(*ring_ms(0, {1, 1}, {}), 0);
}

TEST(CommunicationTest, AnUnknownLinkThatIsUsedGivesNoTime) {
  const Links inside{.device_bytes_per_s = 1e9, .node_bytes_per_s = 0};
  EXPECT_TRUE(ring_ms(1e9, {2, 1}, inside).has_value());
  EXPECT_FALSE(ring_ms(1e9, {2, 2}, inside).has_value());
  EXPECT_FALSE(ring_ms(1e9, {2, 1}, {}).has_value());
}

TEST(CommunicationTest, ReductionsFollowTheBackward) {
  // Three ranges of equal work, 30 ms of backward: ready at 10, 20 and 30 ms. Each takes 5 ms to
  // reduce: the first two are done by 15 and 25, the last at 35.
  const std::vector<GradientRange> even{{100, 1}, {100, 1}, {100, 1}};
  EXPECT_DOUBLE_EQ(exposed_ms(even, 30, 15), 5);
  // 20 ms each: 10 → 30 → 50 → 70.
  EXPECT_DOUBLE_EQ(exposed_ms(even, 30, 60), 40);
  // What is ready only at the end is not overlapped at all: ready at 30, 30, 30.
  EXPECT_DOUBLE_EQ(exposed_ms({{0, 1}, {100, 0}}, 30, 15), 15);
  // What is ready first and small is gone by the end.
  EXPECT_DOUBLE_EQ(exposed_ms({{100, 1}, {0, 2}}, 30, 15), 0);
  // Nothing to overlap with.
  EXPECT_DOUBLE_EQ(exposed_ms(even, 0, 15), 15);
}

ModelConfig small_model(bool tied) {
  ModelConfig model;
  model.family = Family::llama;
  model.n_layer = 2;
  model.n_head = 2;
  model.n_embd = 8;
  model.ffn_hidden = 16;
  model.vocab_size = 32;
  model.block_size = 16;
  model.tie_embeddings = tied;
  return model;
}

TEST(CommunicationTest, RangesComeInTheOrderOfTheBackward) {
  // A layer: q, k, v, o 8 × 8 each, gate, up, down 8 × 16 each: 640 elements in matrices; two norms
  // of 8, each in a place of 32: 704. Embedding and head 32 × 8 = 256 each, the final norm 8
  // in 32.
  const ModelConfig untied = small_model(false);
  const auto ranges = gradient_ranges(untied, parameter_layout(untied), 4, 1);
  ASSERT_EQ(ranges.size(), 4u);
  EXPECT_DOUBLE_EQ(ranges[0].bytes, 4 * (256 + 32));
  EXPECT_DOUBLE_EQ(ranges[1].bytes, 4 * 704);
  EXPECT_DOUBLE_EQ(ranges[2].bytes, 4 * 704);
  EXPECT_DOUBLE_EQ(ranges[3].bytes, 4 * 256);
  EXPECT_DOUBLE_EQ(ranges[0].backward_work, 256);
  EXPECT_DOUBLE_EQ(ranges[1].backward_work, 640);
  EXPECT_DOUBLE_EQ(ranges[3].backward_work, 0);
  // Tied, the one matrix is complete at the end; the head's product is computed all the same.
  const ModelConfig tied = small_model(true);
  const auto shared = gradient_ranges(tied, parameter_layout(tied), 2, 1);
  EXPECT_DOUBLE_EQ(shared[0].bytes, 2 * 8);
  EXPECT_DOUBLE_EQ(shared[0].backward_work, 256);
  EXPECT_DOUBLE_EQ(shared[3].bytes, 2 * 256);
}

TEST(CommunicationTest, OnlyWhatIsTrainedIsReduced) {
  const ModelConfig model = small_model(false);
  Training lora;
  lora.lora_rank = 1;
  lora.lora_alpha = 1;
  lora.lora_targets = {"q_proj"};
  double bytes = 0;
  for (const GradientRange& range : gradient_ranges(model, parameter_layout(model, lora), 4, 1))
    bytes += range.bytes;
  // Two layers' A [1, 8] and B [8, 1], each in a place of 32; the gap after B stays out.
  EXPECT_DOUBLE_EQ(bytes, 4 * 2 * (32 + 8));
}

TEST(CommunicationTest, AStepOfAllReduce) {
  CommunicationRequest request;
  request.cluster = {.devices = 4, .nodes = 2};
  request.links = {.device_bytes_per_s = 1000, .node_bytes_per_s = 100};
  request.ranges = {{40, 1}, {40, 1}};
  request.last_backward_ms = 1000;
  const Communication sum = predict_communication(request);
  EXPECT_DOUBLE_EQ(sum.sent_bytes, 140);  // 2 · 7/8 · 80
  EXPECT_DOUBLE_EQ(sum.node_sent_bytes, 140);
  EXPECT_DOUBLE_EQ(*sum.ms, 1400);
  EXPECT_DOUBLE_EQ(sum.exposed_ms, 900);  // ready at 500 and 1000; 500 → 1200 → 1900
}

TEST(CommunicationTest, AStepWithAShardedOptimizer) {
  CommunicationRequest request;
  request.cluster = {.devices = 8, .nodes = 1};
  request.links = {.device_bytes_per_s = 1000, .node_bytes_per_s = 0};
  request.ranges = {{80, 1}};
  request.sharded = true;
  request.gathered_bytes = 40;  // weights in bf16, gradients in fp32
  request.last_backward_ms = 1000;
  const Communication sum = predict_communication(request);
  EXPECT_DOUBLE_EQ(sum.sent_bytes, 70 + 35);
  EXPECT_DOUBLE_EQ(sum.node_sent_bytes, 0);
  EXPECT_DOUBLE_EQ(*sum.ms, 105);
  EXPECT_DOUBLE_EQ(sum.exposed_ms, 105);  // one range, ready at the end; then the weights
}

TEST(DeviceTableTest, LinksAreThoseOfTheDataSheets) {
  // NVLink 4: 900 GB/s both ways, so 450 each; a DGX H100 has 8 adapters of 400 Gbit/s.
  const Devices h100 = parse_devices("h100x8");
  EXPECT_DOUBLE_EQ(h100.device.links.device_bytes_per_s, 450e9);
  EXPECT_DOUBLE_EQ(h100.device.links.adapter_bytes_per_s, 50e9);
  EXPECT_DOUBLE_EQ(parse_devices("a100").device.links.device_bytes_per_s, 300e9);
  EXPECT_DOUBLE_EQ(parse_devices("l4").device.links.device_bytes_per_s, 32e9);  // PCIe 4.0 × 16
  EXPECT_DOUBLE_EQ(parse_devices("l4").device.links.adapter_bytes_per_s, 0);
  for (const DeviceRates& device : device_table())
    EXPECT_FALSE(device.links.source.empty()) << device.name;
}

}  // namespace
}  // namespace train_sft
