// Files of token ids that other trainers made, read where they lie, memory-mapped:
//   nanoGPT (data/openwebtext/prepare.py): bare uint16, a document ends with its end-of-text token;
//     bare uint32 where the vocabulary is larger than 65,536, or every second half is 0
//   llm.c (dev/data/data_common.py): a header of 256 int32, then ids; a document begins with its
//     end-of-text token. Magic 20240520, version 1: GPT-2's ids, uint16. Magic 20240801, version 7:
//     Llama-3's ids, uint32. The third number is the count of ids.
#pragma once

#include <string>
#include <vector>

#include "train_sft/data/dataset.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

// Shards in the order given are one stream. The last val_split of the tokens validates, unless
// there is val_data. Throws DataError for a file that is none, or has ids outside the vocabulary:
// 64 places are looked at, with config.verify_data all.
DataSplit load_token_files(const TrainConfig& config, const Tokenizer& tokenizer);

}  // namespace train_sft
