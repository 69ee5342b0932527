// A BpeDefinition checked and put into tables.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bpe_merger.h"
#include "train_sft/text/bpe.h"

namespace train_sft {

// Throws DataError naming what does not fit and where.
void check_definition(const BpeDefinition& definition, const std::string& where);
// Bytes of each id: decoded from the byte alphabet, or the literal text of an added token.
std::vector<std::string> token_bytes_of(const BpeDefinition& definition);
BpeMerger merger_of(const BpeDefinition& definition, const std::string& where);
// A checksum of all that decides ids and specials; not of the chat template.
std::string fingerprint_of(const BpeDefinition& definition);

}  // namespace train_sft
