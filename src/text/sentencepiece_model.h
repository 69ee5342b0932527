// What of a sentencepiece ModelProto (sentencepiece_model.proto of google/sentencepiece) is needed
// here. Read from the wire format by hand: the protobuf library would clash with the one in
// LibTorch.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace train_sft {

struct SentencepieceModel {
  enum class PieceType {
    normal = 1,
    unknown = 2,
    control = 3,
    user_defined = 4,
    unused = 5,
    byte = 6
  };
  enum class ModelType { unigram = 1, bpe = 2, word = 3, character = 4 };
  struct Piece {
    std::string text;  // U+2581 for a space
    float score = 0;
    PieceType type = PieceType::normal;
  };

  std::vector<Piece> pieces;
  ModelType type = ModelType::unigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  std::string normalization_map;  // compiled; empty: identity
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// Throws DataError naming `where` and the byte.
SentencepieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where);

// Rewrites the scores of normal pieces in place in a copy of the model's bytes.
std::string with_rounded_scores(std::string_view bytes, float step, const std::string& where);

}  // namespace train_sft
