#include "train_sft/plan/data_size.h"

#include <algorithm>
#include <cmath>

#include "data/split.h"
#include "train_sft/base/log.h"
#include "train_sft/text/tokenizer.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {
namespace {

uint64_t held_out(uint64_t examples, const TrainConfig& config) {
  if (!config.val_data.empty()) return 0;
  return std::min(validation_count(examples, config.val_split), examples);
}

uint64_t rows_of(uint64_t examples, uint64_t tokens, const TrainConfig& config) {
  const auto block = static_cast<uint64_t>(config.block_size);
  const bool one_a_row = config.packing == "none" || config.packing == "auto";
  if (one_a_row || tokens == 0) return examples;
  return (tokens + block - 1) / block;  // packed without a gap
}

DataSize size_of_examples(const GivenSize& given, const TrainConfig& config) {
  DataSize size;
  size.is_text = false;
  const uint64_t validation = held_out(*given.examples, config);
  const uint64_t examples = *given.examples - validation;
  if (given.mean_tokens) {
    const double mean = std::min(*given.mean_tokens, static_cast<double>(config.block_size));
    size.tokens = static_cast<uint64_t>(static_cast<double>(examples) * mean);
    size.validation_tokens = static_cast<uint64_t>(static_cast<double>(validation) * mean);
  } else if (given.tokens) {
    size.tokens = *given.tokens;
  }
  size.rows = rows_of(examples, size.tokens, config);
  size.validation_rows = rows_of(validation, size.validation_tokens, config);
  size.all_tokens = size.tokens + size.validation_tokens;
  return size;
}

// Where the run's tokenizer and chat template come from; "" when it trains its own.
std::string tokenizer_path(const TrainConfig& config) {
  const std::string& start =
      config.pretrained_model.empty() ? config.resume : config.pretrained_model;
  if (!config.tokenizer.empty()) return config.tokenizer;
  return start.empty() || start == "auto" ? "" : resolve_checkpoint(start);
}

std::unique_ptr<Tokenizer> tokenizer_of_run(const TrainConfig& config) {
  if (const std::string path = tokenizer_path(config); !path.empty()) return load_tokenizer(path);
  log::info("training the tokenizer, as the run would");
  return tokenizer_from_model(train_tokenizer(load_documents(config), tokenizer_training(config)),
                              "the tokenizer");
}

uint64_t real_tokens(const RowTable& rows, int64_t block_size) {
  return static_cast<uint64_t>(std::llround(rows.fill() * static_cast<double>(rows.size()) *
                                            static_cast<double>(block_size)));
}

}  // namespace

DataSize size_from_numbers(const GivenSize& given, const TrainConfig& config) {
  if (given.examples) return size_of_examples(given, config);
  DataSize size;
  const auto block = static_cast<uint64_t>(config.block_size);
  size.tokens = given.tokens.value_or(0);
  size.all_tokens = size.tokens;
  // A stream is cut into whole rows; packed examples fill their last row in part.
  size.is_text = config.packing == "sequential" || config.packing == "auto";
  size.rows =
      config.packing == "best_fit" ? (size.tokens + block - 1) / block : size.tokens / block;
  return size;
}

std::unique_ptr<PlannedData> read_planned_data(const TrainConfig& config) {
  const auto tokenizer = tokenizer_of_run(config);
  const auto rendering = chat_template_for(config.chat_template, tokenizer_path(config));
  auto data = std::make_unique<PlannedData>();
  data->split = load_data(config, *tokenizer, *rendering);
  Dataset& train = data->split.train;
  data->rows.emplace(train, resolve_packing(config, train.is_text), config.block_size);
  add_rows(train.report, *data->rows);
  DataSize& size = data->size;
  size.rows = data->rows->size();
  size.tokens = real_tokens(*data->rows, config.block_size);
  size.is_text = train.is_text;
  size.report = train.report;
  size.vocab_size = tokenizer->vocab_size();
  size.overlap = data->split.overlap;
  size.all_tokens = train.tokens.size() + data->split.validation.tokens.size();
  if (data->split.validation.size() > 0) {
    const Dataset& validation = data->split.validation;
    const RowTable rows(validation, resolve_packing(config, validation.is_text), config.block_size);
    size.validation_rows = rows.size();
    size.validation_tokens = real_tokens(rows, config.block_size);
  }
  return data;
}

}  // namespace train_sft
