// The decoder against the engine: with a KV cache or without, the same logits.
#include "train_sft/model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "golden/samples.h"
#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"
#include "train_sft/model/engine.h"

namespace train_sft {
namespace {

Batch one_document(const std::vector<int32_t>& tokens) {
  Batch batch;
  batch.tokens = tokens;
  batch.targets.assign(tokens.size(), kNoTarget);
  for (size_t i = 0; i < tokens.size(); ++i) batch.positions.push_back(static_cast<int32_t>(i));
  batch.cu_seqlens = {0, static_cast<int32_t>(tokens.size())};
  batch.example_ids = {0};
  batch.max_seqlen = static_cast<int32_t>(tokens.size());
  batch.rows = 1;
  return batch;
}

std::vector<float> last_logits(Engine& engine, const std::vector<int32_t>& tokens) {
  const at::Tensor row = engine.logits(one_document(tokens))[-1].to(at::kFloat).contiguous();
  return {row.const_data_ptr<float>(), row.const_data_ptr<float>() + row.numel()};
}

int32_t arg_max(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max<double>(largest, std::fabs(a[i] - b[i]));
  return largest;
}

std::vector<int32_t> random_tokens(const ModelConfig& config, int64_t count, uint64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<int32_t>(CounterRng(seed, 0).bits(static_cast<uint64_t>(i)) %
                                          static_cast<uint64_t>(config.vocab_size)));
  return tokens;
}

SamplingOptions greedy(int64_t max_new_tokens) {
  SamplingOptions options;
  options.temperature = 0;
  options.max_new_tokens = max_new_tokens;
  return options;
}

class DecoderTest : public testing::TestWithParam<samples::NamedConfig> {
 protected:
  DecoderTest() : parameters_(GetParam().config, at::kFloat, at::kFloat, false) {
    samples::randomise(parameters_, 12);
  }
  Parameters parameters_;
};

TEST_P(DecoderTest, GreedyContinuationIsTheEnginesArgMaxAtEachStep) {
  Engine engine(parameters_, {});
  Decoder decoder(parameters_);
  std::vector<int32_t> context = random_tokens(GetParam().config, 5, 1);
  const std::vector<int32_t> generated = generate(decoder, context, {}, greedy(15));
  ASSERT_EQ(generated.size(), 15U);
  for (int32_t id : generated) {
    EXPECT_EQ(id, arg_max(last_logits(engine, context))) << "after " << context.size();
    context.push_back(id);
  }
}

TEST_P(DecoderTest, LogitsDoNotDependOnThePiecesTokensCameIn) {
  Engine engine(parameters_, {});
  const std::vector<int32_t> tokens = random_tokens(GetParam().config, 20, 2);
  const std::vector<float> expected = last_logits(engine, tokens);
  Decoder whole(parameters_), pieces(parameters_);
  EXPECT_LE(largest_difference(whole.append(tokens), expected), 1e-4);
  const std::span<const int32_t> all(tokens);
  pieces.append(all.subspan(0, 7));
  pieces.append(all.subspan(7, 1));
  pieces.append(all.subspan(8, 10));
  EXPECT_LE(largest_difference(pieces.append(all.subspan(18, 2)), expected), 1e-4);
  EXPECT_EQ(pieces.tokens(), tokens);
}

TEST_P(DecoderTest, ATruncatedSequenceContinuesAsIfNothingHadFollowed) {
  const std::vector<int32_t> tokens = random_tokens(GetParam().config, 20, 3);
  std::vector<int32_t> other(tokens.begin(), tokens.begin() + 8);
  for (int32_t id : random_tokens(GetParam().config, 9, 4)) other.push_back(id);
  Decoder decoder(parameters_), fresh(parameters_);
  decoder.append(tokens);
  decoder.truncate(8);
  EXPECT_EQ(decoder.length(), 8);
  const std::vector<float> continued = decoder.append({other.data() + 8, other.size() - 8});
  EXPECT_LE(largest_difference(continued, fresh.append(other)), 1e-4);
  decoder.clear();
  EXPECT_LE(largest_difference(decoder.append(tokens), Decoder(parameters_).append(tokens)), 1e-6);
}

TEST_P(DecoderTest, GeneratesAfterWhatTheDecoderHolds) {
  const std::vector<int32_t> context = random_tokens(GetParam().config, 9, 5);
  Decoder whole(parameters_), continued(parameters_);
  const std::vector<int32_t> expected = generate(whole, context, {}, greedy(6));
  continued.append(context);
  continued.truncate(4);
  EXPECT_EQ(generate(continued, {context.begin() + 4, context.end()}, {}, greedy(6)), expected);
  EXPECT_EQ(continued.tokens(), whole.tokens());
}

TEST_P(DecoderTest, StopsAtAStopIdTheLimitAndAFullContext) {
  Decoder decoder(parameters_);
  const std::vector<int32_t> prompt = random_tokens(GetParam().config, 4, 6);
  const std::vector<int32_t> all = generate(decoder, prompt, {}, greedy(1000));
  // The token after the last that fits is still drawn.
  EXPECT_EQ(static_cast<int64_t>(all.size()), GetParam().config.block_size - 4 + 1);
  const int32_t stop = all[6];
  const auto place = std::find(all.begin(), all.end(), stop);
  std::vector<int32_t> streamed;
  decoder.clear();
  const std::vector<int32_t> stopped =
      generate(decoder, prompt, {stop}, greedy(1000), [&](int32_t id) { streamed.push_back(id); });
  EXPECT_EQ(stopped, std::vector<int32_t>(all.begin(), place));
  EXPECT_EQ(streamed, stopped);
  decoder.clear();
  EXPECT_EQ(generate(decoder, prompt, {}, greedy(3)),
            std::vector<int32_t>(all.begin(), all.begin() + 3));
  decoder.clear();
  EXPECT_THROW(
      generate(decoder, random_tokens(GetParam().config, GetParam().config.block_size + 1, 7), {},
               greedy(1)),
      UsageError);
}

INSTANTIATE_TEST_SUITE_P(Models, DecoderTest, testing::ValuesIn(samples::configs()),
                         [](const testing::TestParamInfo<samples::NamedConfig>& info) {
                           return info.param.name;
                         });

TEST(DecoderPiecesTest, APromptLongerThanAPieceIsTheSameAsTheEngine) {
  for (at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    ModelConfig config = samples::configs()[3].config;
    config.block_size = 700;
    Parameters parameters(config, at::kFloat, compute, false);
    initialise(parameters, 2);
    Engine engine(parameters, {});
    Decoder decoder(parameters);
    const std::vector<int32_t> tokens = random_tokens(config, 600, 8);
    const std::vector<float>& logits = decoder.append(tokens);
    EXPECT_LE(largest_difference(logits, last_logits(engine, tokens)),
              compute == at::kFloat ? 1e-5 : 2e-2);
  }
}

}  // namespace
}  // namespace train_sft
