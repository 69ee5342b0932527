// Micro-batches of a few sizes, for devices: kernels captured in a graph have fixed shapes. What is
// added is documents of its own that nobody attends to, and rows whose loss has weight 0.
#pragma once

#include <cstdint>

#include "train_sft/data/batch.h"

namespace train_sft {

struct PaddedShape {
  int64_t tokens = 0;
  int64_t learned = 0;  // rows that go on to the loss; = tokens: all of them
  int64_t documents = 0;
  int64_t max_seqlen = 0;  // a bound of the documents' lengths
  bool operator==(const PaddedShape&) const = default;
};

// The next of the sizes 2^k · (8 … 15) / 8 that is a multiple of 16, at least 128: less than an
// eighth is added to anything above it.
int64_t padded_size(int64_t n);

// largest_tokens: the micro-batch that the run plans for, which is a size of its own (rounded up to
// a multiple of 16), so that full rows of text are not padded; 0: none.
PaddedShape padded_shape(const Batch& batch, int64_t block_size, int64_t largest_tokens);

// `batch` in that shape, into `out`, whose memory is used again. Every row that goes on has a
// weight.
void pad(const Batch& batch, const PaddedShape& shape, Batch& out);

}  // namespace train_sft
