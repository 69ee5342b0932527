// Real data, where ../shared/data (or TRAIN_SFT_SHARED) is there; skipped by name where it is not.
#include <gmock/gmock.h>

#include <cstdlib>
#include <set>

#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

class SharedDataTest : public DataFixture {
 protected:
  void SetUp() override {
    const char* given = std::getenv("TRAIN_SFT_SHARED");
    folder_ = given != nullptr ? given : TRAIN_SFT_SOURCE_DIR "/../shared";
    if (!path_exists(folder_ + "/data")) GTEST_SKIP() << folder_ << "/data is not there";
    config.block_size = 1024;
  }
  std::string shared(const std::string& name) const { return folder_ + "/data/" + name; }
  // Tokenised with a tokenizer trained on the data itself.
  DataSplit load_own(const std::string& name, const std::string& type, int64_t vocab_size) {
    config.data = {shared(name)};
    TokenizerTraining training;
    training.type = type;
    training.vocab_size = vocab_size;
    own_ = tokenizer_from_model(train_tokenizer(load_documents(config), training), name);
    return load_data(config, *own_, *chat_template(config.chat_template));
  }

  std::string folder_;
  std::unique_ptr<Tokenizer> own_;
};

TEST_F(SharedDataTest, Alpaca) {
  const Dataset train = load_own("alpaca_en_demo.json", "bpe", 2000).train;
  EXPECT_EQ(train.report.format, "alpaca");
  EXPECT_EQ(train.report.examples, 999U);
  EXPECT_EQ(train.report.duplicates, 14U);
  EXPECT_EQ(std::set<uint64_t>(train.content_hashes.begin(), train.content_hashes.end()).size(),
            985U);
  EXPECT_EQ(train.size(), 999U);
  EXPECT_EQ(train.report.truncated, 0U);
  const RowTable rows(train, Packing::best_fit, 1024);
  EXPECT_LE(rows.size(), (train.tokens.size() + 1023) / 1024 + 1);
}

TEST_F(SharedDataTest, AlpacaSplitHasNoOverlap) {
  config.val_split = 0.05;
  const DataSplit split = load_own("alpaca_en_demo.json", "bpe", 2000);
  EXPECT_EQ(split.validation.size(), 50U);
  EXPECT_EQ(split.train.size(), 949U);
  EXPECT_EQ(split.overlap, 0U);
}

TEST_F(SharedDataTest, Identity) {
  config.data_vars = {"name=Ada", "author=us"};
  const Dataset train = load_own("identity.json", "unigram", 600).train;
  EXPECT_EQ(train.report.examples, 91U);
  EXPECT_EQ(own_->decode(train.tokens.all()).find("{{"), std::string::npos);
}

TEST_F(SharedDataTest, MessagesWithTypedPartsAndLossWeights) {
  const Dataset train = load_own("v1_sft_demo.jsonl", "bpe", 2000).train;
  EXPECT_EQ(train.report.format, "messages");
  EXPECT_EQ(train.report.examples, 500U);
  EXPECT_GT(train.report.learned_tokens, 500U);
  for (const float weight : train.weights.all()) EXPECT_TRUE(weight == 0.0F || weight == 1.0F);
}

TEST_F(SharedDataTest, ToolCallsInShareGpt) {
  const Dataset train = load_own("glaive_toolcall_en_demo.json", "bpe", 2000).train;
  EXPECT_EQ(train.report.format, "sharegpt");
  EXPECT_EQ(train.report.examples, 300U);
  EXPECT_THAT(own_->decode(train.tokens.slice(0, train.offsets[1])),
              testing::HasSubstr("search_recipes"));
}

TEST_F(SharedDataTest, WebDocuments) {
  config.val_split = 0.1;
  const DataSplit split = load_own("c4_demo.jsonl", "unigram", 4000);
  EXPECT_EQ(split.train.size(), 270U);
  EXPECT_EQ(split.validation.size(), 30U);
  EXPECT_TRUE(split.train.is_text);
  for (uint64_t d = 0; d < split.train.size(); ++d) {
    EXPECT_EQ(split.train.tokens[split.train.offsets[d + 1] - 1], own_->eos_id());
  }
}

TEST_F(SharedDataTest, ShakespeareByCharacters) {
  config.val_split = 0.1;
  const DataSplit split = load_own("tinyshakespeare.txt", "char", 8192);
  EXPECT_EQ(split.train.tokens.size(), 1003854U);
  EXPECT_EQ(split.validation.tokens.size(), 111540U + 1) << "and the end of text";
  const std::vector<int32_t> tokens = split.train.tokens.all();
  const std::set<int32_t> used(tokens.begin(), tokens.end());
  EXPECT_EQ(used.size(), 65U);
  EXPECT_EQ(own_->vocab_size(), 65 + 256 + 4 + 9);
}

}  // namespace
}  // namespace train_sft
