#include "train_sft/text/tokenizer.h"

#include <gtest/gtest.h>

#include <tuple>

#include "sample_tokenizers.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/base/rng.h"

namespace train_sft {
namespace {

void append_utf8(std::string& out, uint32_t c) {
  const auto tail = [&](unsigned shift) { out += static_cast<char>(0x80 | (c >> shift & 63)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

// Text with many spaces, newlines, parts of special names and characters from all planes.
std::string random_text(uint64_t number) {
  static const std::vector<std::string> parts = {" ",
                                                 "  ",
                                                 "\n",
                                                 "\n\n",
                                                 "\t",
                                                 "a",
                                                 "ab",
                                                 "aa",
                                                 "the",
                                                 "\xE2\x96\x81",
                                                 "\xE2\x96\x85",
                                                 "<",
                                                 "<s>",
                                                 "</s>",
                                                 "<0x41>",
                                                 "<|im_end|>",
                                                 "<unk>",
                                                 "<|im_start|>user\n",
                                                 "banana",
                                                 "\r\n",
                                                 "1234",
                                                 "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7",
                                                 std::string(1, '\0'),
                                                 "\x7F",
                                                 "\xEF\xBF\xBD",
                                                 "\xEF\xBB\xBF"};
  const CounterRng rng(7, number);
  std::string text;
  const uint64_t length = rng.bits(0) % 30;
  for (uint64_t i = 0; i < length; ++i) {
    if (rng.bits(2 * i + 1) % 4 != 0) {
      text += parts[rng.bits(2 * i + 2) % parts.size()];
      continue;
    }
    auto c = static_cast<uint32_t>(rng.bits(2 * i + 2) % 0x110000);
    if (c >= 0xD800 && c < 0xE000) c = 0xFFFE;
    append_utf8(text, c);
  }
  return text;
}

class EachTokenizer : public testing::TestWithParam<const char*> {
 protected:
  const Tokenizer& tokenizer() const { return sample_tokenizer(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Types, EachTokenizer, testing::Values("bpe", "unigram", "char"));

TEST_P(EachTokenizer, DecodeInvertsEncodeForHardTexts) {
  for (const std::string text :
       {"", " ", "\n", "   leading", "trailing  ", "a\tb\r\n\n\n  c", "\xE2\x96\x81",
        " \xE2\x96\x81 x",
        "a\xE2\x96\x81"
        "b",
        "\xF0\x9F\x98\x80 \xE4\xBD\xA0\xE5\xA5\xBD", "\x01\x02\x7F", "<0x41><s>"}) {
    EXPECT_EQ(tokenizer().decode(tokenizer().encode(text)), text);
  }
}

TEST_P(EachTokenizer, DecodeInvertsEncodeForRandomUnicode) {
  for (uint64_t i = 0; i < 3000; ++i) {
    const std::string text = random_text(i);
    ASSERT_EQ(tokenizer().decode(tokenizer().encode(text)), text) << "text number " << i;
  }
}

TEST_P(EachTokenizer, NamesOfSpecialTokensInTextStayText) {
  const Tokenizer& t = tokenizer();
  for (const std::string name :
       {"<s>", "</s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"}) {
    ASSERT_TRUE(t.special_id(name)) << name;
    const std::string text = "a " + name + name + "\n" + name;
    for (const int32_t id : t.encode(text)) EXPECT_NE(id, *t.special_id(name)) << name;
    EXPECT_EQ(t.decode(t.encode(text)), text);
  }
}

TEST_P(EachTokenizer, TextThatNamesAByteTokenIsNotThatByte) {
  EXPECT_GE(tokenizer().encode("<0x41>").size(), 2U);
  EXPECT_EQ(tokenizer().decode(tokenizer().encode("<0x41>")), "<0x41>");
}

TEST_P(EachTokenizer, TokenBytesConcatenateToTheText) {
  const std::string text = "the cat \xF0\x9F\x98\x80\n\xE2\x96\x81!";
  std::string joined;
  for (const int32_t id : tokenizer().encode(text)) joined += tokenizer().token_bytes(id);
  EXPECT_EQ(joined, text);
}

TEST_P(EachTokenizer, TrainingTwiceGivesTheSameBytes) {
  TokenizerTraining training;
  training.type = GetParam();
  training.vocab_size = 400;
  EXPECT_EQ(train_tokenizer(sample_documents(), training),
            train_tokenizer(sample_documents(), training));
}

TEST_P(EachTokenizer, SpecialTokensHaveTheFirstIds) {
  const Tokenizer& t = tokenizer();
  EXPECT_EQ(t.bos_id(), 1);
  EXPECT_EQ(t.eos_id(), 2);
  EXPECT_EQ(t.pad_id(), 3);
  EXPECT_EQ(t.special_id("<|im_start|>"), 4);
  EXPECT_EQ(t.special_id("<|im_end|>"), 5);
  EXPECT_EQ(t.special_id("the"), std::nullopt);
}

TEST_P(EachTokenizer, SavedAndLoadedGivesTheSameIds) {
  const std::string directory = testing::TempDir() + "/tokenizer_" + GetParam();
  tokenizer().save(directory, "{{ messages }}");
  const auto loaded = load_tokenizer(directory);
  EXPECT_EQ(loaded->fingerprint(), tokenizer().fingerprint());
  EXPECT_EQ(loaded->kind(), tokenizer().kind());
  EXPECT_EQ(loaded->encode("the cat sings"), tokenizer().encode("the cat sings"));
  EXPECT_EQ(read_json_file(directory + "/tokenizer_config.json")["chat_template"],
            "{{ messages }}");
}

TEST(TokenizerTest, BpeMergesFrequentWords) {
  EXPECT_EQ(sample_tokenizer("bpe").encode(" cat").size(), 1U);
  EXPECT_EQ(sample_tokenizer("bpe").encode("  garden").size(), 2U);  // two spaces, the word
}

TEST(TokenizerTest, RunsOfSpacesAndNewlinesMerge) {
  EXPECT_EQ(sample_tokenizer("bpe").encode("\n\n").size(), 1U);
  EXPECT_LT(sample_tokenizer("bpe").encode("    if").size(), 5U);
}

TEST(TokenizerTest, SampleIsBoundedAndSpread) {
  std::vector<std::string> documents;
  for (int i = 0; i < 400; ++i) {
    documents.push_back(std::string("line ") + (i < 200 ? "early" : "late") + " words\n");
  }
  TokenizerTraining training;
  training.vocab_size = 330;
  training.max_sample_bytes = 500;
  const auto t = tokenizer_from_model(train_tokenizer(documents, training), "test");
  EXPECT_EQ(t->encode(" early").size(), 1U);
  EXPECT_EQ(t->encode(" late").size(), 1U);
}

TEST(TokenizerTest, CharCoversEachCharacterAndRespectsTheLimit) {
  TokenizerTraining training;
  training.type = "char";
  training.vocab_size = 8192;
  const auto t = tokenizer_from_model(train_tokenizer({"abc\nabd é"}, training), "test");
  EXPECT_EQ(t->vocab_size(), 4 + 9 + 256 + 7);
  EXPECT_EQ(t->encode("abc\nabd é").size(), 9U);
}

TEST(TokenizerTest, BadFilesAreDataErrors) {
  const std::string path = testing::TempDir() + "/broken.model";
  EXPECT_THROW(load_tokenizer(testing::TempDir() + "/absent.model"), DataError);
  write_file_atomically(path, "");
  EXPECT_THROW(load_tokenizer(path), DataError);
  write_file_atomically(path, "this is not a model");
  EXPECT_THROW(load_tokenizer(path), DataError);
  TokenizerTraining training;
  training.vocab_size = 400;
  const std::string model = train_tokenizer(sample_documents(), training);
  write_file_atomically(path, std::string_view(model).substr(0, model.size() / 2));
  EXPECT_THROW(load_tokenizer(path), DataError);
}

TEST(TokenizerTest, TooSmallAVocabularyOrNoTextIsAnError) {
  TokenizerTraining training;
  training.vocab_size = 100;
  EXPECT_THROW(train_tokenizer(sample_documents(), training), UsageError);
  EXPECT_THROW(train_tokenizer({"", ""}, TokenizerTraining{}), DataError);
}

// sentencepiece follows them wherever they lead.
TEST(TokenizerTest, NormalizationRulesThatLeadOutOfTheirFileAreRefused) {
  TokenizerTraining training;
  training.type = "char";
  training.vocab_size = 400;
  const std::string model = train_tokenizer({"abc\n"}, training);
  const auto units = units_of_one_rule();
  const auto good =
      tokenizer_from_model(with_normalization_map(model, normalization_map(units)), "good");
  EXPECT_EQ(good->encode("cAb"), good->encode("cbb"));
  const auto expect_refused = [&](const std::string& map, const char* what) {
    for (const char field : {'\3', '\5'}) {
      EXPECT_THROW(tokenizer_from_model(with_normalization_map(model, map, field), "bad"),
                   DataError)
          << what << " in field " << int{field};
    }
  };
  const std::vector<std::tuple<uint32_t, uint32_t, const char*>> damages = {
      {0, 512 << 10, "children behind the end"},
      {256 ^ 'A', 512 << 10 | 'A', "a child's children behind the end"},
      {256 ^ 'A', 2 << 10 | 1 << 9 | 'A', "the same, in pages of 256"},
      {256 ^ 'A' ^ 1, 1U << 31 | 2, "a text behind the end"},
      {256, 1 << 8, "a rule for the zero byte whose value is itself"}};
  for (const auto& [place, bits, what] : damages) {
    auto damaged = units;
    damaged[place] = bits;
    expect_refused(normalization_map(damaged), what);
  }
  expect_refused(normalization_map({}), "no trie");
  expect_refused(normalization_map({0}), "a trie of one place");
  std::string map = normalization_map(units);
  expect_refused(map.substr(0, map.size() - 1), "a text without an end");
  expect_refused(map.substr(0, 4 + 4 * units.size()), "no texts");
  expect_refused("ab", "no size");
}

}  // namespace
}  // namespace train_sft
