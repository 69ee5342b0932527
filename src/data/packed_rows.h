// Rows of packed examples, computed once and kept beside the token cache.
#pragma once

#include <string>

#include "train_sft/data/dataset.h"
#include "train_sft/data/loader.h"

namespace train_sft {

struct RowColumns {
  Column<uint64_t> offsets;   // [rows + 1] into examples
  Column<uint32_t> examples;  // [E]
};

// From the file beside the cache when there is a whole one, made for these examples, this packing
// and block size; else packed, and kept there if that is possible.
RowColumns packed_rows(const Dataset& dataset, Packing packing, int64_t block_size);

}  // namespace train_sft
