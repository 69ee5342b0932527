#include <gmock/gmock.h>

#include "cli/byte_tokenizer.h"
#include "cli/inspect_data.h"

namespace train_sft::cli {
namespace {

using testing::Eq;

Dataset dataset(const std::vector<int32_t>& tokens, const std::vector<float>& weights) {
  Dataset data;
  data.tokens = tokens;
  data.weights = weights;
  data.offsets = std::vector<uint64_t>{0, tokens.size()};
  data.ids = std::vector<uint64_t>{0};
  return data;
}

TEST(ExampleSpansTest, LearnedTokensStandApartAndSpecialTokensHaveTheirNames) {
  const ByteTokenizer tokenizer;
  const int32_t end = *tokenizer.special_id("<|im_end|>");
  const auto spans = example_spans(dataset({'Q', end, 'A', end}, {0, 0, 1, 0.5F}), tokenizer, 0);
  EXPECT_THAT(plain_text(spans), Eq("Q<|im_end|>⟦A<|im_end|>⟧"));
  EXPECT_THAT(coloured_text(spans), Eq("\x1b[2mQ<|im_end|>\x1b[0m\x1b[1;32mA<|im_end|>\x1b[0m"));
}

TEST(ExampleSpansTest, NoFileSteersTheTerminal) {
  const ByteTokenizer tokenizer;
  const auto spans =
      example_spans(dataset({'\x1b', '[', '2', 'J', 0x7F, '\n'}, {0, 0, 0, 0, 0, 0}), tokenizer, 0);
  EXPECT_THAT(coloured_text(spans), Eq("\x1b[2m␛[2J␡\n\x1b[0m"));
}

TEST(ExampleSpansTest, HalfACharacterIsNotPrinted) {
  const ByteTokenizer tokenizer;
  const auto spans = example_spans(dataset({0xC3, 'x'}, {0, 0}), tokenizer, 0);
  EXPECT_THAT(plain_text(spans), Eq("\xEF\xBF\xBDx"));
}

}  // namespace
}  // namespace train_sft::cli
