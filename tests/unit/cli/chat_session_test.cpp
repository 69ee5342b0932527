#include "cli/chat_session.h"

#include <ATen/ops/mul.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace train_sft::cli {
namespace {

// Random weights: what is said is nonsense, but the same nonsense whenever the model reads the
// same.
LoadedModel random_model(int64_t block_size) {
  LoadedModel model;
  TokenizerTraining training;
  training.type = "char";
  model.tokenizer = tokenizer_from_model(
      train_tokenizer({"the quick brown fox jumps over the lazy dog, 0123456789"}, training),
      "test");
  model.chat_template = chat_template("chatml");
  ModelConfig shape;
  shape.n_layer = 2;
  shape.n_head = 2;
  shape.n_embd = 16;
  shape.block_size = block_size;
  shape.vocab_size = model.tokenizer->vocab_size();
  model.parameters = std::make_unique<Parameters>(shape, at::kFloat, at::kFloat, false);
  initialise(*model.parameters, 7);
  model.parameters->master().mul_(20);  // far from uniform, so that a wrong context shows
  return model;
}

SamplingOptions greedy(int64_t max_new_tokens) {
  SamplingOptions options;
  options.temperature = 0;
  options.max_new_tokens = max_new_tokens;
  return options;
}

void silently(const std::string&) {}

TEST(ChatSessionTest, RepliesDependOnTheConversationOnly) {
  const LoadedModel model = random_model(512);
  ChatSession session(model, greedy(12), "be brief");
  const auto first = session.say("the fox", silently);
  const auto second = session.say("and the dog", silently);
  EXPECT_GT(second.prompt_tokens, first.prompt_tokens + first.new_tokens);
  // After clear() nothing of the cache may show.
  session.clear();
  EXPECT_EQ(session.say("the fox", silently).text, first.text);
  EXPECT_EQ(session.say("and the dog", silently).text, second.text);
  // A whole new session computes everything anew.
  ChatSession fresh(model, greedy(12), "be brief");
  EXPECT_EQ(fresh.say("the fox", silently).text, first.text);
}

TEST(ChatSessionTest, StreamedTextIsTheReply) {
  const LoadedModel model = random_model(512);
  ChatSession session(model, greedy(30), "");
  std::string streamed;
  const auto reply = session.say("0123", [&](const std::string& text) { streamed += text; });
  EXPECT_EQ(streamed, reply.text);
  EXPECT_LE(reply.new_tokens, 30u);
}

TEST(ChatSessionTest, OldestTurnsAreForgottenWhenTheContextIsFull) {
  const LoadedModel model = random_model(128);
  ChatSession session(model, greedy(8), "be brief");
  size_t forgotten = 0;
  for (int turn = 0; turn < 6; ++turn) {
    const auto reply = session.say("the lazy dog jumps", silently);
    forgotten += reply.forgotten;
    EXPECT_LE(reply.prompt_tokens + reply.new_tokens, 128u);
  }
  EXPECT_GT(forgotten, 0u);
  EXPECT_EQ(forgotten % 2, 0u) << "a question goes with its answer";
}

TEST(ChatSessionTest, MessageBeyondTheContextIsRefusedAndForgotten) {
  const LoadedModel model = random_model(64);
  ChatSession session(model, greedy(8), "");
  EXPECT_THROW(session.say(std::string(100, 'x'), silently), UsageError);
  EXPECT_NO_THROW(session.say("the dog", silently));
}

}  // namespace
}  // namespace train_sft::cli
