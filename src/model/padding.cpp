#include "model/padding.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr int64_t kSmallest = 128;
constexpr int64_t kMultiple = 16;  // of the rows of 8-bit products
// Documents of padding are short: attention's work grows with the square of their length.
constexpr int64_t kPaddingDocument = 128;

int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

int64_t power_of_two(int64_t n) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n)));
}

// Tokens, targets and limits of the documents that fill up to shape.tokens; then empty documents.
void add_documents(const PaddedShape& shape, Batch& out) {
  const int64_t longest = std::min(kPaddingDocument, shape.max_seqlen);
  const auto n = static_cast<size_t>(shape.tokens);
  for (auto at = static_cast<int64_t>(out.tokens.size()); at < shape.tokens;) {
    const int64_t length = std::min(longest, shape.tokens - at);
    for (int64_t p = 0; p < length; ++p) out.positions.push_back(static_cast<int32_t>(p));
    at += length;
    out.cu_seqlens.push_back(static_cast<int32_t>(at));
  }
  out.tokens.resize(n, 0);
  out.targets.resize(n, 0);
  const auto documents = static_cast<size_t>(shape.documents);
  TRAIN_SFT_CHECK(out.cu_seqlens.size() <= documents + 1, "{} documents, {} in the shape",
                  out.cu_seqlens.size() - 1, documents);
  out.cu_seqlens.resize(documents + 1, static_cast<int32_t>(shape.tokens));
  out.example_ids.resize(documents, std::numeric_limits<uint64_t>::max());
}

// As many rows as are missing, from the last backwards, of those that are not learned. Rows ascend.
void add_learned(const Batch& batch, const PaddedShape& shape, Batch& out) {
  const auto count = static_cast<size_t>(shape.learned);
  out.learned.resize(count);
  out.weights.assign(count, 0.0F);
  auto row = static_cast<int32_t>(shape.tokens);
  size_t real = batch.learned.size(), missing = count - real;
  for (size_t place = count; place-- > 0;) {
    --row;
    while (missing == 0 && row != batch.learned[real - 1]) --row;
    out.learned[place] = row;
    if (real > 0 && batch.learned[real - 1] == row) {
      --real;
      out.weights[place] = batch.weights.empty() ? 1.0F : batch.weights[real];
    } else {
      --missing;
      out.targets[static_cast<size_t>(row)] = 0;  // any: its loss has weight 0
    }
  }
}

}  // namespace

int64_t padded_size(int64_t n) {
  TRAIN_SFT_CHECK(n >= 0, "{} rows", n);
  if (n <= kSmallest) return kSmallest;
  return round_up(n, std::max(kMultiple, power_of_two(n) / 16));
}

PaddedShape padded_shape(const Batch& batch, int64_t block_size, int64_t largest_tokens) {
  PaddedShape shape;
  shape.tokens = padded_size(batch.size());
  const int64_t largest = round_up(largest_tokens, kMultiple);
  if (batch.size() <= largest) shape.tokens = std::min(shape.tokens, largest);
  const auto learned = static_cast<int64_t>(batch.learned.size());
  shape.learned =
      learned == batch.size() ? shape.tokens : std::min(padded_size(learned), shape.tokens);
  shape.max_seqlen =
      std::min(block_size, power_of_two(std::max<int64_t>(batch.max_seqlen, kSmallest)));
  const int64_t each = std::min(kPaddingDocument, shape.max_seqlen);
  const int64_t added = round_up(shape.tokens - batch.size(), each) / each;
  shape.documents = power_of_two(batch.documents() + added);
  return shape;
}

void pad(const Batch& batch, const PaddedShape& shape, Batch& out) {
  TRAIN_SFT_CHECK(batch.size() <= shape.tokens && shape.learned <= shape.tokens &&
                      static_cast<int64_t>(batch.learned.size()) <= shape.learned,
                  "{} tokens, {} learned, into {}, {}", batch.size(), batch.learned.size(),
                  shape.tokens, shape.learned);
  out.tokens = batch.tokens;
  out.targets = batch.targets;
  out.positions = batch.positions;
  out.cu_seqlens = batch.cu_seqlens;
  out.example_ids = batch.example_ids;
  out.max_seqlen = static_cast<int32_t>(shape.max_seqlen);
  out.rows = batch.rows;
  add_documents(shape, out);
  add_learned(batch, shape, out);
}

}  // namespace train_sft
