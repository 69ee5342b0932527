#include "cli/model_score.h"

#include <chrono>
#include <cmath>

#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"

namespace train_sft::cli {
namespace {

std::vector<double> token_sizes(const Tokenizer& tokenizer) {
  std::vector<double> bytes(static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t id = 0; id < bytes.size(); ++id) {
    bytes[id] = static_cast<double>(tokenizer.token_bytes(static_cast<int32_t>(id)).size());
  }
  return bytes;
}

}  // namespace

ModelScore score(const LoadedModel& model, const RowTable& rows, int64_t batch_size,
                 const std::string& label) {
  const std::vector<double> bytes_of = token_sizes(*model.tokenizer);
  EngineOptions options;
  options.max_tokens = batch_size * model.parameters->config().block_size;
  Engine engine(*model.parameters, options);
  ModelScore total;
  ProgressBar bar(label, rows.size());
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t first = 0; first < rows.size();) {
    signals::throw_if_stopped();
    const uint64_t count = std::min(static_cast<uint64_t>(batch_size), rows.size() - first);
    const Batch batch = make_batch(rows, first, count);
    const LossSums sums = engine.evaluate(batch);
    total.sums.loss += sums.loss;
    total.sums.weight += sums.weight;
    total.sums.tokens += sums.tokens;
    total.sums.correct += sums.correct;
    for (size_t i = 0; i < batch.learned.size(); ++i) {
      const auto at = static_cast<size_t>(batch.learned[i]);
      const double weight = batch.weights.empty() ? 1.0 : batch.weights[i];
      total.bytes += weight * bytes_of[static_cast<size_t>(batch.targets[at])];
    }
    total.tokens += batch.size();
    first += count;
    bar.update(first);
  }
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
  total.seconds = spent.count();
  return total;
}

Json to_json(const ModelScore& score, const DataReport& report) {
  Json json;
  json["loss"] = score.loss();
  json["perplexity"] = std::exp(score.loss());
  if (score.bytes > 0) json["bits_per_byte"] = score.sums.loss / std::log(2.0) / score.bytes;
  json["token_accuracy"] = static_cast<double>(score.sums.correct) /
                           static_cast<double>(std::max<int64_t>(1, score.sums.tokens));
  json["scored_tokens"] = score.sums.tokens;
  if (score.seconds > 0) json["tokens_per_s"] = static_cast<double>(score.tokens) / score.seconds;
  json["data"] = train_sft::to_json(report);
  return json;
}

}  // namespace train_sft::cli
