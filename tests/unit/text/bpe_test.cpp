#include "train_sft/text/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "bpe_sample.h"
#include "random_texts.h"
#include "support/temporary_directory.h"
#include "text/bpe_build.h"
#include "text/regex_splitter.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/base/rng.h"
#include "train_sft/text/chat_template.h"

namespace train_sft {
namespace {

using testing::HasSubstr;

std::vector<std::string> pieces_of(const Splitter& splitter, std::string_view text) {
  std::vector<std::string> pieces;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = splitter.piece_end(text, begin);
    pieces.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

TEST(PatternTest, HandWrittenSplittersCutAsTheRegexDoes) {
  for (const std::string_view pattern : {kGpt2Pattern, kLlama3Pattern, kQwen2Pattern}) {
    const auto fast = pattern_splitter(std::string(pattern), "test");
    const RegexSplitter slow(std::string(pattern), "test");
    for (uint64_t number = 0; number < 4000; ++number) {
      const std::string text = random_unicode_text(number);
      ASSERT_EQ(pieces_of(*fast, text), pieces_of(slow, text)) << pattern << "\n" << text;
    }
  }
}

TEST(PatternTest, WhatOnigurumaReadsOtherwiseIsRefused) {
  for (const char* pattern :
       {"\\w+", "a\\b", "[[:alpha:]]", "[a&&b]", "a{1,3}+", "^a", "\\h", "(?i:ss)", "(?m:.)",
        "[^\\S]", "\\p{Han}", "\\xE9", "(?<x>a)", "(a)\\1", "[a"}) {
    try {
      pcre2_pattern(pattern, "tokenizer.json");
      ADD_FAILURE() << pattern << " was accepted";
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("tokenizer.json")) << pattern;
      EXPECT_THAT(error.what(), HasSubstr(pattern));
    }
  }
}

TEST(PatternTest, MalformedPatternsNameTheirPlace) {
  try {
    RegexSplitter("(a", "tokenizer.json");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("at byte 2"));
  }
}

TEST(PatternTest, CatastrophicPatternsGiveUpWithAMessage) {
  const RegexSplitter splitter("(?:a+)+\\d", "tokenizer.json");
  EXPECT_THROW(splitter.piece_end(std::string(40, 'a') + "c", 0), DataError);
}

TEST(BpeTest, MergesByRankThenFromTheLeft) {
  const auto tokenizer = bpe_tokenizer(sample_bpe(), "test");
  const auto id = [&](std::string_view word) {
    const auto& tokens = tokenizer->definition().tokens;
    return static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), to_byte_alphabet(word)) -
                                tokens.begin());
  };
  EXPECT_EQ(tokenizer->encode("the the"), (std::vector<int32_t>{id("the"), id(" the")}));
  EXPECT_EQ(tokenizer->encode("aaab"), (std::vector<int32_t>{id("aa"), id("ab")}));
  EXPECT_EQ(tokenizer->encode("aaaaa"), (std::vector<int32_t>{id("aaaa"), id("a")}));
  EXPECT_EQ(tokenizer->encode("ababab"), (std::vector<int32_t>{id("abab"), id("ab")}));
}

TEST(BpeTest, LongPiecesMergeAsShortOnesDo) {
  // The same letters, once short enough for looking through them, once for the heap.
  const BpeMerger merger = merger_of(sample_bpe(), "test");
  for (uint64_t round = 0; round < 2000; ++round) {
    const CounterRng rng(7, round);
    std::string piece;
    for (uint64_t i = 2 + rng.bits(0) % 60; i > 0; --i) piece += "abthe "[rng.bits(i) % 6];
    std::vector<int32_t> scanned;
    std::vector<int32_t> heaped;
    merger.merge_by_scan(piece, scanned);
    merger.merge_by_heap(piece, heaped);
    ASSERT_EQ(scanned, heaped) << piece;
  }
}

TEST(BpeTest, DecodeGivesBackAnyBytes) {
  for (const std::string_view pattern : {kGpt2Pattern, kLlama3Pattern}) {
    const auto tokenizer = bpe_tokenizer(sample_bpe_with(pattern), "test");
    for (uint64_t number = 0; number < 500; ++number) {
      std::string text = random_unicode_text(number);
      if (number % 2 == 0) text.insert(text.size() / 2, "\xFF\xC3 \xE4\xBD<|end|>\xF0\x9F");
      ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << number;
    }
  }
}

TEST(BpeTest, NamesOfSpecialTokensInTextStayText) {
  const auto tokenizer = bpe_tokenizer(sample_bpe(), "test");
  const int32_t end = tokenizer->eos_id();
  EXPECT_EQ(tokenizer->special_id("<|end|>"), end);
  EXPECT_EQ(tokenizer->special_id("    "), std::nullopt);
  EXPECT_THAT(tokenizer->encode("a<|end|>b"), testing::Not(testing::Contains(end)));
  EXPECT_THAT(tokenizer->encode_with_specials("a<|end|>b"), testing::Contains(end));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{end}), "");
  EXPECT_THAT(tokenizer->encode("a    b"), testing::Contains(end + 2));  // not special
}

TEST(BpeTest, CutWhereItSaysTheIdsStayTheSame) {
  for (const std::string_view pattern : {kGpt2Pattern, kLlama3Pattern}) {
    BpeDefinition definition = sample_bpe_with(pattern);
    definition.normalizer = Normalizer::nfc;
    const auto tokenizer = bpe_tokenizer(definition, "test");
    int cuts = 0;
    for (uint64_t number = 0; number < 1500; ++number) {
      const std::string text = random_unicode_text(number);
      const size_t cut = tokenizer->safe_cut(text, text.size() / 2);
      if (cut == 0) continue;
      ++cuts;
      std::vector<int32_t> ids = tokenizer->encode(text.substr(0, cut));
      const std::vector<int32_t> rest = tokenizer->encode(text.substr(cut));
      ids.insert(ids.end(), rest.begin(), rest.end());
      ASSERT_EQ(ids, tokenizer->encode(text)) << text;
    }
    EXPECT_GT(cuts, 300);
  }
}

TEST(BpeTest, SavedAndLoadedIsTheSame) {
  const TemporaryDirectory folder;
  BpeDefinition definition = sample_bpe_with(kQwen2Pattern);
  definition.normalizer = Normalizer::nfc;
  const auto tokenizer = bpe_tokenizer(definition, "test");
  tokenizer->save(folder.path(), "{{ messages }}");
  EXPECT_TRUE(holds_tokenizer(folder.path()));
  const auto loaded = load_tokenizer(folder.path());
  EXPECT_EQ(loaded->fingerprint(), tokenizer->fingerprint());
  EXPECT_EQ(loaded->eos_id(), tokenizer->eos_id());
  EXPECT_EQ(loaded->bos_id(), -1);
  EXPECT_EQ(stored_chat_template(folder.path()), "{{ messages }}");
}

TEST(BpeTest, GgufNamesComeBack) {
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    BpeDefinition definition;
    apply_gguf_pre_tokenizer(name, definition, "model.gguf");
    EXPECT_EQ(gguf_pre_tokenizer_name(definition), name);
  }
  BpeDefinition definition;
  EXPECT_THROW(apply_gguf_pre_tokenizer("nonsense", definition, "model.gguf"), DataError);
  EXPECT_EQ(gguf_pre_tokenizer_name(sample_bpe_with("a+")), std::nullopt);
}

// Each row breaks a good tokenizer.json in one place; the message names that place.
struct Malformed {
  const char* name;
  std::function<void(MapJson&)> harm;
  const char* message;
};

void PrintTo(const Malformed& malformed, std::ostream* out) {
  *out << malformed.name;
}

class MalformedTokenizer : public testing::TestWithParam<Malformed> {};

TEST_P(MalformedTokenizer, NamesThePlace) {
  const TemporaryDirectory folder;
  bpe_tokenizer(sample_bpe_with(kQwen2Pattern), "test")->save(folder.path(), "");
  const std::string path = folder / "tokenizer.json";
  MapJson json = parse_map_json(read_file(path), path);
  GetParam().harm(json);
  write_file_atomically(path, json.dump());
  try {
    load_tokenizer(path);
    FAIL() << "was accepted";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr(path));
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  }
}

const Malformed kMalformed[] = {
    {"NotAnObject", [](MapJson& j) { j = MapJson::array(); }, "expected a JSON object"},
    {"NoModel", [](MapJson& j) { j.erase("model"); }, "no field 'model'"},
    {"WordPiece", [](MapJson& j) { j["model"]["type"] = "WordPiece"; }, "'WordPiece'"},
    {"VocabIsAList", [](MapJson& j) { j["model"]["vocab"] = {1}; }, "model.vocab"},
    {"IdNotANumber", [](MapJson& j) { j["model"]["vocab"]["a"] = "x"; }, "token 'a' has id \"x\""},
    {"IdNegative", [](MapJson& j) { j["model"]["vocab"]["a"] = -1; }, "token 'a' has id -1"},
    {"IdHuge", [](MapJson& j) { j["model"]["vocab"]["a"] = 4000000000U; }, "has id 4000000000"},
    {"IdTwice", [](MapJson& j) { j["model"]["vocab"]["a"] = 66; }, "the same id 66"},
    {"MergeOfThree",
     [](MapJson& j) {
       j["model"]["merges"][2] = {"a", "b", "c"};
     },
     "merges[2]"},
    {"MergeWithoutSpace", [](MapJson& j) { j["model"]["merges"][1] = "ab"; }, "merges[1]"},
    {"MergeOfUnknown", [](MapJson& j) { j["model"]["merges"][0] = "zz a"; }, "'zz' is not a token"},
    {"MergeMakesUnknown", [](MapJson& j) { j["model"]["merges"][0] = "z q"; }, "'zq' is not"},
    {"ByteFallback", [](MapJson& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback"},
    {"Dropout", [](MapJson& j) { j["model"]["dropout"] = 0.1; }, "dropout"},
    {"Suffix", [](MapJson& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "</w>"},
    {"Nfkc",
     [](MapJson& j) {
       j["normalizer"] = {{"type", "NFKC"}};
     },
     "NFKC"},
    {"Punctuation",
     [](MapJson& j) {
       j["pre_tokenizer"] = {{"type", "Punctuation"}};
     },
     "Punctuation"},
    {"Metaspace",
     [](MapJson& j) {
       j["pre_tokenizer"] = {{"type", "Metaspace"}};
     },
     "Metaspace"},
    {"NoPreTokenizer", [](MapJson& j) { j.erase("pre_tokenizer"); }, "no pre_tokenizer"},
    {"NotByteLevel",
     [](MapJson& j) {
       j["pre_tokenizer"] = {{"type", "Digits"}};
     },
     "ByteLevel"},
    {"Removed", [](MapJson& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; },
     "pretokenizers[0]: behavior"},
    {"BadPattern",
     [](MapJson& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; }, "(a"},
    {"Decoder", [](MapJson& j) { j["decoder"]["type"] = "WordPiece"; }, "decoder"},
    {"PostProcessor",
     [](MapJson& j) {
       j["post_processor"] = {{"type", "Odd"}};
     },
     "Odd"},
    {"AddedTwice", [](MapJson& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }, "twice"},
    {"AddedHuge", [](MapJson& j) { j["added_tokens"][0]["id"] = 1 << 30; }, "added_tokens[0]"},
    {"AddedNoContent", [](MapJson& j) { j["added_tokens"][1].erase("content"); },
     "added_tokens[1]: no field 'content'"},
    {"SingleWord", [](MapJson& j) { j["added_tokens"][0]["single_word"] = true; }, "single_word"},
};

INSTANTIATE_TEST_SUITE_P(Json, MalformedTokenizer, testing::ValuesIn(kMalformed),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(MalformedTokenizerFile, NeverCrashesWhereverItIsCut) {
  const TemporaryDirectory folder;
  bpe_tokenizer(sample_bpe(), "test")->save(folder.path(), "");
  const std::string path = folder / "tokenizer.json";
  const std::string whole = read_file(path);
  for (size_t size = 0; size + 2 < whole.size(); size += 97) {
    write_file_atomically(path, whole.substr(0, size));
    EXPECT_THROW(load_tokenizer(path), DataError) << size;
  }
  write_file_atomically(path, std::string(100000, '['));
  EXPECT_THROW(load_tokenizer(path), DataError);
}

TEST(MalformedTokenizerFile, ConfigBesideItIsCheckedToo) {
  const TemporaryDirectory folder;
  bpe_tokenizer(sample_bpe(), "test")->save(folder.path(), "");
  write_file_atomically(folder / "tokenizer_config.json", "{\"eos_token\": 7}");
  EXPECT_THROW(load_tokenizer(folder.path()), DataError);
  write_file_atomically(folder / "tokenizer_config.json", "{}");
  write_file_atomically(folder / "config.json", "{\"eos_token_id\": [99999]}");
  EXPECT_THROW(load_tokenizer(folder.path()), DataError);
  write_file_atomically(folder / "config.json", "{\"eos_token_id\": [3, 4]}");
  EXPECT_EQ(load_tokenizer(folder.path())->eos_id(), 3);
}

}  // namespace
}  // namespace train_sft
