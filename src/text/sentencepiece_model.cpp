#include "sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "normalization_map.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

static_assert(std::endian::native == std::endian::little);

struct Field {
  uint32_t number = 0;
  uint32_t wire_type = 0;
  uint64_t value = 0;      // varint or fixed
  std::string_view bytes;  // length-delimited
  size_t offset = 0;       // of the value within the whole file
};

// Walks the fields of one message (protobuf encoding: developers.google.com/protocol-buffers).
class FieldReader {
 public:
  FieldReader(std::string_view message, size_t base, const std::string& where)
      : message_(message), base_(base), where_(where) {}

  bool next(Field& field) {
    if (position_ == message_.size()) return false;
    const uint64_t key = varint();
    field.number = static_cast<uint32_t>(key >> 3);
    field.wire_type = static_cast<uint32_t>(key & 7);
    field.bytes = {};
    switch (field.wire_type) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8, field);
        break;
      case 2: {
        const uint64_t length = varint();
        field.offset = base_ + position_;
        field.bytes = take(length);
        break;
      }
      case 5:
        field.value = fixed(4, field);
        break;
      default:
        fail();
    }
    return true;
  }

 private:
  [[noreturn]] void fail() const {
    throw DataError(
        "{}: not a sentencepiece model, or cut short: unreadable at byte {}. Give a "
        "tokenizer.model "
        "made by sentencepiece or by `train_sft prepare`.",
        where_, base_ + position_);
  }
  std::string_view take(uint64_t length) {
    if (length > message_.size() - position_) fail();
    const std::string_view out = message_.substr(position_, length);
    position_ += length;
    return out;
  }
  uint64_t fixed(size_t length, Field& field) {
    field.offset = base_ + position_;
    const std::string_view raw = take(length);
    uint64_t value = 0;
    std::memcpy(&value, raw.data(), length);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }

  std::string_view message_;
  size_t base_;
  const std::string& where_;
  size_t position_ = 0;
};

SentencepieceModel::Piece parse_piece(const Field& message, const std::string& where,
                                      size_t* score_offset = nullptr) {
  SentencepieceModel::Piece piece;
  FieldReader reader(message.bytes, message.offset, where);
  Field field;
  while (reader.next(field)) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) {
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
      if (score_offset != nullptr) *score_offset = field.offset;
    }
    if (field.number == 3) {
      if (field.value < 1 || field.value > 6) {
        throw DataError("{}: piece '{}' has the unknown type {}", where, piece.text, field.value);
      }
      piece.type = static_cast<SentencepieceModel::PieceType>(field.value);
    }
  }
  // Its own reader ends the process on one.
  if (piece.text.find('\0') != std::string::npos)
    throw DataError("{}: a piece holds a null character", where);
  return piece;
}

void parse_trainer_spec(const Field& message, const std::string& where, SentencepieceModel& model) {
  FieldReader reader(message.bytes, message.offset, where);
  Field field;
  while (reader.next(field)) {
    if (field.number == 3 && field.value >= 1 && field.value <= 4) {
      model.type = static_cast<SentencepieceModel::ModelType>(field.value);
    }
    if (field.number == 24) model.whitespace_as_suffix = field.value != 0;
    if (field.number == 35) model.byte_fallback = field.value != 0;
  }
}

void parse_normalizer_spec(const Field& message, const std::string& where,
                           SentencepieceModel& model) {
  FieldReader reader(message.bytes, message.offset, where);
  Field field;
  while (reader.next(field)) {
    if (field.number == 2 && field.wire_type == 2) model.normalization_map = field.bytes;
    if (field.number == 3) model.add_dummy_prefix = field.value != 0;
    if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) model.escape_whitespaces = field.value != 0;
  }
}

// The rules that decoding applies: sentencepiece's, who reads them again.
void check_denormalizer_spec(const Field& message, const std::string& where) {
  FieldReader reader(message.bytes, message.offset, where);
  Field field;
  while (reader.next(field))
    if (field.number == 2 && field.wire_type == 2) check_normalization_map(field.bytes, where);
}

}  // namespace

SentencepieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where) {
  SentencepieceModel model;
  FieldReader reader(bytes, 0, where);
  Field field;
  while (reader.next(field)) {
    if (field.wire_type != 2) continue;
    if (field.number == 1) model.pieces.push_back(parse_piece(field, where));
    if (field.number == 2) parse_trainer_spec(field, where, model);
    if (field.number == 3) parse_normalizer_spec(field, where, model);
    if (field.number == 5) check_denormalizer_spec(field, where);
  }
  check_normalization_map(model.normalization_map, where);
  if (model.pieces.empty()) {
    throw DataError("{}: holds no pieces, so it is not a sentencepiece model", where);
  }
  return model;
}

std::string with_rounded_scores(std::string_view bytes, float step, const std::string& where) {
  std::string out(bytes);
  FieldReader reader(bytes, 0, where);
  Field field;
  while (reader.next(field)) {
    if (field.number != 1 || field.wire_type != 2) continue;
    size_t score_offset = 0;
    const SentencepieceModel::Piece piece = parse_piece(field, where, &score_offset);
    if (score_offset == 0 || piece.type != SentencepieceModel::PieceType::normal) continue;
    const float rounded = std::round(piece.score / step) * step;
    std::memcpy(out.data() + score_offset, &rounded, sizeof rounded);
  }
  return out;
}

}  // namespace train_sft
