// sentencepiece's compiled normalisation rules (normalizer.cc of google/sentencepiece): the size of
// a trie, the trie as a double array of 32-bit units (s-yata/darts-clone), and the texts it leads
// to, each ended by a zero byte.
#pragma once

#include <string>
#include <string_view>

namespace train_sft {

// The library follows the trie without looking whether a place lies inside it. Throws DataError
// unless every text leads only to places inside, and to a text that ends. Empty: no rules.
void check_normalization_map(std::string_view map, const std::string& where);

}  // namespace train_sft
