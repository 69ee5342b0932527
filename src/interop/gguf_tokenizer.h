// The tokenizer.ggml.* keys of a GGUF file (llama.cpp, llama-vocab.cpp; gguf-py/gguf/constants.py).
#pragma once

#include <memory>
#include <string>

#include "train_sft/interop/gguf.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

// The file's tokenizer; null when it holds none. Throws CheckpointError when it is of a kind that
// is not implemented or does not fit together.
std::unique_ptr<Tokenizer> tokenizer_of_gguf(const GgufFile& file);

// Adds the keys for the tokenizer whose files lie in a checkpoint directory. rows: of the
// embedding; ids beyond the tokenizer's become unused tokens. Returns what llama.cpp will do
// differently, "" when nothing. Throws CheckpointError when GGUF cannot say what this tokenizer
// does.
std::string add_tokenizer(GgufWriter& writer, const std::string& directory, int64_t rows);

}  // namespace train_sft
