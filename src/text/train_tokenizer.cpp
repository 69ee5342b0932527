#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "segment.h"
#include "sentencepiece_model.h"
#include "special_tokens.h"
#include "train_sft/base/error.h"
#include "train_sft/base/utf8.h"
#include "train_sft/config/train_config.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {
namespace {

// Sums of scores of a segment stay exact in float, so that sentencepiece (float) and Hugging Face
// (double) break no tie differently. A step of 1/256 nat does not matter to the segmentation.
constexpr float kScoreStep = 1.0F / 256.0F;

// The trainer sums expectations thread by thread; another number of threads would round otherwise
// and give other bytes.
constexpr const char* kTrainerThreads = "4";

class SentenceList : public sentencepiece::SentenceIterator {
 public:
  explicit SentenceList(const std::vector<std::string>& sentences) : sentences_(sentences) {}
  bool done() const override { return next_ >= sentences_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return sentences_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& sentences_;
  size_t next_ = 0;
};

// Takes every k-th byte's worth of what is offered, so that the sample is spread evenly.
class EvenSample {
 public:
  EvenSample(uint64_t offered, uint64_t wanted)
      : ratio_(offered <= wanted ? 1.0
                                 : static_cast<double>(wanted) / static_cast<double>(offered)) {}
  bool take(size_t bytes) {
    credit_ += ratio_ * static_cast<double>(bytes);
    if (ratio_ < 1.0 && credit_ < static_cast<double>(bytes)) return false;
    credit_ -= static_cast<double>(bytes);
    return true;
  }

 private:
  double ratio_;
  double credit_ = 0;
};

// Sentences for the trainer: stretches of a line between cuts that no piece may cross. Runs of
// newlines are sentences of their own.
std::vector<std::string> training_sentences(const std::vector<std::string>& documents,
                                            const Segmenter& segmenter, uint64_t max_bytes) {
  uint64_t total = 0;
  for (const std::string& document : documents) total += document.size();
  EvenSample sample(total, max_bytes);
  std::vector<std::string> sentences;
  std::string sentence;
  const auto finish = [&] {
    if (!sentence.empty() && sample.take(sentence.size())) sentences.push_back(sentence);
    sentence.clear();
  };
  for (const std::string& document : documents) {
    const std::string_view text = document;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = segmenter.segment_end(text, begin);
      std::string_view segment = text.substr(begin, end - begin);
      begin = end;
      if (segment[0] == '\n') {
        finish();
        sentence = segment;
        finish();
        continue;
      }
      for (size_t symbol = segment.find(kSpaceSymbol); symbol != std::string_view::npos;
           symbol = segment.find(kSpaceSymbol)) {
        sentence += segment.substr(0, symbol);
        finish();
        segment.remove_prefix(symbol + kSpaceSymbol.size());
      }
      sentence += segment;
      const bool cut_inside_word = end < text.size() && text[end] != ' ' && text[end] != '\n';
      if (cut_inside_word) finish();
    }
    finish();
  }
  return sentences;
}

// Cuts sentences at their rarest characters so that at most `most` distinct ones are left; those
// cut out are spelled in bytes. A script of thousands of signs must not fill a small vocabulary.
// (The trainer's own character_coverage refuses less than 98 %.)
void leave_out_rare_characters(std::vector<std::string>& sentences, size_t most) {
  std::map<std::string, uint64_t, std::less<>> counts;
  const auto each_character = [](std::string_view text, const auto& visit) {
    for (size_t i = 0; i < text.size();) {
      const size_t length = utf8_length(static_cast<unsigned char>(text[i]));
      visit(text.substr(i, length));
      i += length;
    }
  };
  for (const std::string& sentence : sentences) {
    each_character(sentence, [&](std::string_view c) {
      const auto found = counts.find(c);
      if (found != counts.end()) ++found->second;
      if (found == counts.end()) counts.emplace(c, 1);
    });
  }
  if (counts.size() <= most) return;
  std::vector<std::pair<uint64_t, std::string>> sorted;
  for (const auto& [character, count] : counts) sorted.emplace_back(count, character);
  std::sort(sorted.begin(), sorted.end());
  std::set<std::string, std::less<>> rare;
  for (size_t i = 0; i + most < sorted.size(); ++i) rare.insert(sorted[i].second);

  std::vector<std::string> cut;
  for (const std::string& sentence : sentences) {
    std::string piece;
    each_character(sentence, [&](std::string_view c) {
      if (!rare.contains(c)) {
        piece += c;
      } else if (!piece.empty()) {
        cut.push_back(std::move(piece));
        piece.clear();
      }
    });
    if (!piece.empty()) cut.push_back(std::move(piece));
  }
  sentences = std::move(cut);
}

}  // namespace

TokenizerTraining tokenizer_training(const TrainConfig& config) {
  TokenizerTraining training;
  training.type = config.tokenizer_type;
  if (config.model.vocab_size > 0) training.vocab_size = config.model.vocab_size;
  return training;
}

std::string train_tokenizer(const std::vector<std::string>& documents,
                            const TokenizerTraining& training) {
  const bool is_char = training.type == "char";
  if (!is_char && training.type != "bpe" && training.type != "unigram") {
    throw UsageError("tokenizer_type '{}' is unknown; choose unigram, bpe or char", training.type);
  }
  const auto reserved = static_cast<int64_t>(4 + kChatSpecials.size() + 256);
  if (training.vocab_size < reserved + 8) {
    throw UsageError(
        "vocab_size {} is too small: {} tokens are taken by special tokens and bytes; "
        "give at least {}",
        training.vocab_size, reserved, reserved + 64);
  }
  std::vector<std::string> names{std::string(kUnkName), std::string(kBosName),
                                 std::string(kEosName), std::string(kPadName)};
  std::string controls;
  for (const std::string_view name : kChatSpecials) {
    names.emplace_back(name);
    if (!controls.empty()) controls += ',';
    controls += name;
  }
  std::vector<std::string> sentences =
      training_sentences(documents, Segmenter(names), training.max_sample_bytes);
  if (sentences.empty()) throw DataError("no text to train a tokenizer on: the data is empty");

  const auto room = static_cast<size_t>(training.vocab_size - reserved);
  leave_out_rare_characters(sentences, is_char ? room : room / 2);
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", training.type},
      {"vocab_size", std::to_string(training.vocab_size)},
      {"hard_vocab_limit", "false"},
      {"character_coverage", "1.0"},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"max_sentence_length", "1000000000"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "3"},
      {"unk_piece", std::string(kUnkName)},
      {"bos_piece", std::string(kBosName)},
      {"eos_piece", std::string(kEosName)},
      {"pad_piece", std::string(kPadName)},
      {"control_symbols", controls},
      {"num_threads", kTrainerThreads},
      {"minloglevel", "2"}};
  SentenceList list(sentences);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &list, &model);
  if (!status.ok()) {
    throw DataError("training a {} tokenizer of {} pieces failed: {}", training.type,
                    training.vocab_size, status.ToString());
  }
  return training.type == "unigram" ? with_rounded_scores(model, kScoreStep, "trained model")
                                    : model;
}

}  // namespace train_sft
