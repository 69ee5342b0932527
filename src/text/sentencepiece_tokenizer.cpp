#include "sentencepiece_tokenizer.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "spaces.h"
#include "tokenizer_json.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"

namespace train_sft {
namespace {

using PieceType = SentencepieceModel::PieceType;

constexpr size_t kCachedSegmentBytes = 48;
constexpr size_t kCachedSegments = size_t{1} << 17;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

// Segments repeat (Zipf); a cache per thread needs no lock and dies with the thread.
struct SegmentCache {
  uint64_t instance = 0;
  std::unordered_map<std::string, std::vector<int32_t>, StringHash, std::equal_to<>> ids;
};
thread_local SegmentCache segment_cache;

std::atomic<uint64_t> next_sentencepiece{1};

std::string bytes_of_piece(const SentencepieceModel::Piece& piece, const std::string& where) {
  switch (piece.type) {
    case PieceType::normal:
    case PieceType::user_defined:
      return with_spaces(piece.text);
    case PieceType::byte: {
      const bool shaped = piece.text.size() == 6 && piece.text.starts_with("<0x") &&
                          piece.text.find_first_not_of("0123456789ABCDEF", 3) == 5;
      if (!shaped)
        throw DataError("{}: byte piece '{}' is not of the form <0xHH>", where, piece.text);
      return std::string(1, static_cast<char>(std::stoi(piece.text.substr(3, 2), nullptr, 16)));
    }
    default:
      return {};
  }
}

// Whether text may be cut into segments first: nothing is normalised, every byte has a token, and
// no piece reaches across a cut. True of every model trained here.
std::optional<Segmenter> segmenter_for(const SentencepieceModel& model) {
  if (!model.normalization_map.empty() || model.add_dummy_prefix || !model.byte_fallback ||
      model.remove_extra_whitespaces || !model.escape_whitespaces || model.whitespace_as_suffix ||
      model.type == SentencepieceModel::ModelType::word) {
    return std::nullopt;
  }
  std::vector<std::string> names;
  for (const auto& piece : model.pieces) {
    if (piece.type != PieceType::control && piece.type != PieceType::unknown) continue;
    const std::string& name = piece.text;
    if (name.size() < 2 || name[0] != '<' || name.find_first_of(" \n") != std::string::npos ||
        name.find(kSpaceSymbol) != std::string::npos) {
      return std::nullopt;
    }
    names.push_back(name);
  }
  Segmenter segmenter(std::move(names));
  for (const auto& piece : model.pieces) {
    if (piece.type == PieceType::user_defined || piece.type == PieceType::unused)
      return std::nullopt;
    if (piece.type != PieceType::normal) continue;
    const std::string text = with_spaces(piece.text);
    if (text.empty() || segmenter.segment_end(text, 0) != text.size()) return std::nullopt;
  }
  return segmenter;
}

}  // namespace

std::string with_spaces(std::string_view piece) {
  std::string out;
  size_t begin = 0;
  for (size_t at = piece.find(kSpaceSymbol); at != std::string_view::npos;
       at = piece.find(kSpaceSymbol, begin)) {
    out.append(piece.substr(begin, at - begin));
    out += ' ';
    begin = at + kSpaceSymbol.size();
  }
  out.append(piece.substr(begin));
  return out;
}

SentencepieceTokenizer::SentencepieceTokenizer(std::string model_bytes, const std::string& where)
    : model_bytes_(std::move(model_bytes)),
      model_(parse_sentencepiece_model(model_bytes_, where)),
      instance_(next_sentencepiece++) {
  const auto status = processor_.LoadFromSerializedProto(model_bytes_);
  if (!status.ok()) {
    throw DataError("{}: sentencepiece cannot load this model: {}", where, status.ToString());
  }
  for (const auto& piece : model_.pieces) {
    if (piece.type == PieceType::control || piece.type == PieceType::unknown) {
      specials_.emplace(piece.text, static_cast<int32_t>(pieces_.size()));
    }
    pieces_.push_back(bytes_of_piece(piece, where));
  }
  segmenter_ = segmenter_for(model_);
  if (segmenter_) {
    for (const unsigned char byte : kSpaceSymbol) {
      space_symbol_ids_.push_back(processor_.PieceToId(fmt::format("<0x{:02X}>", byte)));
    }
  }
}

std::vector<int> SentencepieceTokenizer::encode_with_model(std::string_view text) const {
  std::vector<int> ids;
  const auto status = processor_.Encode(text, &ids);
  TRAIN_SFT_CHECK(status.ok(), "sentencepiece: {}", status.ToString());
  return ids;
}

void SentencepieceTokenizer::encode_segment(std::string_view segment,
                                            std::vector<int32_t>& ids) const {
  size_t begin = 0;
  while (begin < segment.size()) {
    // sentencepiece would take a U+2581 of the text for a space: spell it in bytes.
    const size_t symbol = std::min(segment.find(kSpaceSymbol, begin), segment.size());
    if (symbol > begin) {
      const std::vector<int> part = encode_with_model(segment.substr(begin, symbol - begin));
      ids.insert(ids.end(), part.begin(), part.end());
    }
    if (symbol == segment.size()) return;
    ids.insert(ids.end(), space_symbol_ids_.begin(), space_symbol_ids_.end());
    begin = symbol + kSpaceSymbol.size();
  }
}

std::vector<int32_t> SentencepieceTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  if (!segmenter_) {
    const std::vector<int> whole = encode_with_model(text);
    return {whole.begin(), whole.end()};
  }
  SegmentCache& cache = segment_cache;
  if (cache.instance != instance_ || cache.ids.size() > kCachedSegments) {
    cache.ids.clear();
    cache.instance = instance_;
  }
  ids.reserve(text.size() / 3);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = segmenter_->segment_end(text, begin);
    const std::string_view segment = text.substr(begin, end - begin);
    begin = end;
    if (const auto hit = cache.ids.find(segment); hit != cache.ids.end()) {
      ids.insert(ids.end(), hit->second.begin(), hit->second.end());
      continue;
    }
    const size_t first = ids.size();
    encode_segment(segment, ids);
    if (segment.size() <= kCachedSegmentBytes) {
      cache.ids.emplace(segment, std::vector<int32_t>(
                                     ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end()));
    }
  }
  return ids;
}

std::string SentencepieceTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    TRAIN_SFT_CHECK(id >= 0 && id < vocab_size(), "token id {} of {}", id, vocab_size());
    text += pieces_[static_cast<size_t>(id)];
  }
  if (model_.add_dummy_prefix && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::string SentencepieceTokenizer::token_bytes(int32_t id) const {
  TRAIN_SFT_CHECK(id >= 0 && id < vocab_size(), "token id {} of {}", id, vocab_size());
  return pieces_[static_cast<size_t>(id)];
}

std::optional<int32_t> SentencepieceTokenizer::special_id(std::string_view name) const {
  const auto found = specials_.find(std::string(name));
  if (found == specials_.end()) return std::nullopt;
  return found->second;
}

std::string SentencepieceTokenizer::special_name(int32_t id) const {
  const auto found = std::find_if(specials_.begin(), specials_.end(),
                                  [&](const auto& special) { return special.second == id; });
  return found == specials_.end() ? "" : found->first;
}

std::string SentencepieceTokenizer::kind() const {
  switch (model_.type) {
    case SentencepieceModel::ModelType::unigram:
      return "sentencepiece unigram";
    case SentencepieceModel::ModelType::bpe:
      return "sentencepiece bpe";
    case SentencepieceModel::ModelType::word:
      return "sentencepiece word";
    case SentencepieceModel::ModelType::character:
      return "sentencepiece char";
  }
  return "sentencepiece";
}

std::string SentencepieceTokenizer::fingerprint() const {
  return checksum_of(model_bytes_);
}

std::string SentencepieceTokenizer::piece_name(int32_t id) const {
  return id < 0 ? std::string() : model_.pieces[static_cast<size_t>(id)].text;
}

void SentencepieceTokenizer::save(const std::string& directory,
                                  const std::string& jinja_chat_template) const {
  if (model_.type == SentencepieceModel::ModelType::word) {
    throw DataError(
        "a sentencepiece model of type 'word' has no tokenizer.json; train a unigram, "
        "bpe or char tokenizer (--tokenizer_type)");
  }
  make_directories(directory);
  write_file_atomically(join_path(directory, "tokenizer.model"), model_bytes_);
  const Json tokenizer = huggingface_tokenizer(model_, segmenter_ ? &*segmenter_ : nullptr);
  write_file_atomically(join_path(directory, "tokenizer.json"), dump_json(tokenizer));
  const SpecialNames names{piece_name(bos_id()), piece_name(eos_id()), piece_name(pad_id()),
                           piece_name(processor_.unk_id())};
  write_file_atomically(join_path(directory, "tokenizer_config.json"),
                        dump_json(huggingface_tokenizer_config(names, jinja_chat_template)));
}

std::unique_ptr<Tokenizer> tokenizer_from_model(std::string model_bytes, const std::string& where) {
  return std::make_unique<SentencepieceTokenizer>(std::move(model_bytes), where);
}

}  // namespace train_sft
