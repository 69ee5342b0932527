#pragma once

#include <string>

#include "train_sft/text/bpe.h"

namespace train_sft {

// Fills in bos, eos and pad from the files beside a tokenizer.json, as transformers does:
// tokenizer_config.json, then special_tokens_map.json, then the ids in generation_config.json and
// config.json. Throws DataError.
void read_tokenizer_config(const std::string& directory, BpeDefinition& definition);

}  // namespace train_sft
