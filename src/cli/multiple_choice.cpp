#include "cli/multiple_choice.h"

#include <algorithm>

#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"
#include "train_sft/base/utf8.h"
#include "train_sft/model/engine.h"

namespace train_sft::cli {
namespace {

// One document whose last `ending` tokens are learned.
Batch batch_of(const std::vector<int32_t>& ids, size_t ending) {
  Batch batch;
  batch.tokens = ids;
  batch.targets.assign(ids.begin() + 1, ids.end());
  batch.targets.push_back(kNoTarget);
  for (size_t i = 0; i < ids.size(); ++i) batch.positions.push_back(static_cast<int32_t>(i));
  for (size_t i = ids.size() - ending - 1; i + 1 < ids.size(); ++i) {
    batch.learned.push_back(static_cast<int32_t>(i));
  }
  batch.cu_seqlens = {0, static_cast<int32_t>(ids.size())};
  batch.example_ids = {0};
  batch.max_seqlen = static_cast<int32_t>(ids.size());
  batch.rows = 1;
  return batch;
}

class Scorer {
 public:
  explicit Scorer(const LoadedModel& model)
      : model_(model),
        block_size_(static_cast<size_t>(model.parameters->config().block_size)),
        engine_(*model.parameters, EngineOptions{}) {}

  ScoredQuestion score(const Question& question, bool& cut) {
    const std::vector<int32_t> context = context_ids(question);
    ScoredQuestion scored;
    for (const std::string& ending : question.endings) {
      const std::vector<int32_t> tail = model_.tokenizer->encode(" " + ending);
      if (tail.empty() || tail.size() >= block_size_) {
        throw DataError("{}: an ending of {} tokens does not fit the model's context of {}",
                        question.where, tail.size(), block_size_);
      }
      const size_t room = std::min(context.size(), block_size_ - tail.size());
      cut = cut || room < context.size();
      std::vector<int32_t> ids(context.end() - static_cast<std::ptrdiff_t>(room), context.end());
      ids.insert(ids.end(), tail.begin(), tail.end());
      scored.losses.push_back(engine_.evaluate(batch_of(ids, tail.size())).loss);
      scored.tokens.push_back(static_cast<int64_t>(tail.size()));
    }
    return scored;
  }

 private:
  // At least one token: an ending's first token is predicted from something.
  std::vector<int32_t> context_ids(const Question& question) const {
    std::vector<int32_t> ids = model_.tokenizer->encode(question.context);
    if (!ids.empty()) return ids;
    const int32_t bos = model_.tokenizer->bos_id();
    const int32_t first = bos >= 0 ? bos : model_.tokenizer->eos_id();
    if (first < 0) throw DataError("{}: the context is empty", question.where);
    return {first};
  }

  const LoadedModel& model_;
  size_t block_size_;
  Engine engine_;
};

template <typename Size>
bool chooses_label(const Question& question, const ScoredQuestion& scored, const Size& size) {
  size_t best = 0;
  for (size_t i = 1; i < scored.losses.size(); ++i) {
    if (scored.losses[i] / size(i) < scored.losses[best] / size(best)) best = i;
  }
  return best == question.label;
}

}  // namespace

double MultipleChoice::accuracy(uint64_t count) const {
  return questions == 0 ? 0 : static_cast<double>(count) / static_cast<double>(questions);
}

MultipleChoice multiple_choice(const LoadedModel& model, const std::vector<Question>& questions,
                               uint64_t show) {
  MultipleChoice result;
  Scorer scorer(model);
  ProgressBar bar("choosing", questions.size());
  for (const Question& question : questions) {
    signals::throw_if_stopped();
    bool cut = false;
    const ScoredQuestion scored = scorer.score(question, cut);
    const auto whole = [](size_t) { return 1.0; };
    const auto characters = [&](size_t i) {
      return static_cast<double>(count_characters(question.endings[i]));
    };
    const auto tokens = [&](size_t i) { return static_cast<double>(scored.tokens[i]); };
    result.right += chooses_label(question, scored, whole) ? 1 : 0;
    result.right_norm += chooses_label(question, scored, characters) ? 1 : 0;
    result.right_per_token += chooses_label(question, scored, tokens) ? 1 : 0;
    result.cut += cut ? 1 : 0;
    if (result.questions < show) result.shown.push_back(scored);
    bar.update(++result.questions);
  }
  return result;
}

Json to_json(const MultipleChoice& result) {
  Json json{{"questions", result.questions},
            {"accuracy", result.accuracy(result.right)},
            {"accuracy_norm", result.accuracy(result.right_norm)},
            {"accuracy_per_token", result.accuracy(result.right_per_token)},
            {"cut", result.cut}};
  for (const ScoredQuestion& scored : result.shown) {
    json["scores"].push_back({{"losses", scored.losses}, {"tokens", scored.tokens}});
  }
  return json;
}

}  // namespace train_sft::cli
