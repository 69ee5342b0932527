#include <cmath>
#include <cstdio>

#include "cli/commands.h"
#include "cli/exact_match.h"
#include "cli/loaded_model.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"
#include "train_sft/data/loader.h"
#include "train_sft/model/engine.h"

namespace train_sft::cli {
namespace {

struct Score {
  LossSums sums;
  double bytes = 0;  // of the learned targets' texts

  double loss() const { return sums.weight > 0 ? sums.loss / sums.weight : 0; }
};

Score score(const LoadedModel& model, const RowTable& rows, int64_t batch_size) {
  std::vector<double> bytes_of(static_cast<size_t>(model.tokenizer->vocab_size()));
  for (size_t id = 0; id < bytes_of.size(); ++id) {
    bytes_of[id] =
        static_cast<double>(model.tokenizer->token_bytes(static_cast<int32_t>(id)).size());
  }
  EngineOptions options;
  options.max_tokens = batch_size * model.parameters->config().block_size;
  Engine engine(*model.parameters, options);
  Score total;
  ProgressBar bar("evaluating", rows.size());
  for (uint64_t first = 0; first < rows.size();) {
    signals::throw_if_stopped();
    const uint64_t count = std::min(static_cast<uint64_t>(batch_size), rows.size() - first);
    const Batch batch = make_batch(rows, first, count);
    const LossSums sums = engine.evaluate(batch);
    total.sums.loss += sums.loss;
    total.sums.weight += sums.weight;
    total.sums.tokens += sums.tokens;
    total.sums.correct += sums.correct;
    for (const int32_t at : batch.learned) {
      total.bytes += bytes_of[static_cast<size_t>(batch.targets[static_cast<size_t>(at)])];
    }
    first += count;
    bar.update(first);
  }
  return total;
}

Json to_json(const Score& score, const DataReport& report) {
  Json json;
  json["loss"] = score.loss();
  json["perplexity"] = std::exp(score.loss());
  if (score.bytes > 0) json["bits_per_byte"] = score.sums.loss / std::log(2.0) / score.bytes;
  json["token_accuracy"] = static_cast<double>(score.sums.correct) /
                           static_cast<double>(std::max<int64_t>(1, score.sums.tokens));
  json["scored_tokens"] = score.sums.tokens;
  json["data"] = train_sft::to_json(report);
  return json;
}

Json to_json(const ExactMatch& match) {
  const auto counted = [](const ExactMatch::Count& count) {
    return Json{{"asked", count.asked}, {"right", count.right}, {"accuracy", count.accuracy()}};
  };
  Json json = counted(match.all);
  json["skipped"] = match.skipped;
  for (const auto& [group, count] : match.by_group) json["by_group"][group] = counted(count);
  for (const auto& answer : match.shown) {
    json["answers"].push_back(
        {{"prompt", answer.prompt}, {"expected", answer.expected}, {"got", answer.got}});
  }
  return json;
}

void print(const Json& result, const ExactMatch& match) {
  fmt::print("loss {:.4f}, perplexity {:.3f}", result["loss"].get<double>(),
             result["perplexity"].get<double>());
  if (result.contains("bits_per_byte")) {
    fmt::print(", bits per byte {:.4f}", result["bits_per_byte"].get<double>());
  }
  fmt::print(", {:.2f} % of {} tokens predicted\n", 100 * result["token_accuracy"].get<double>(),
             result["scored_tokens"].get<int64_t>());
  if (!result.contains("exact_match")) return;
  for (const auto& answer : match.shown) {
    fmt::print("\n{}\n  expected: {}\n  got:      {}\n", answer.prompt, answer.expected,
               answer.got);
  }
  const auto line = [](const std::string& name, const ExactMatch::Count& count) {
    fmt::print("{:<20} {:>5} of {:<5} {:6.1f} %\n", name, count.right, count.asked,
               100 * count.accuracy());
  };
  for (const auto& [group, count] : match.by_group) line(group.empty() ? "(none)" : group, count);
  line("exact match", match.all);
  if (match.skipped > 0)
    fmt::print("{} examples without a whole reply were left out\n", match.skipped);
}

Outcome run(const Invocation& invocation) {
  const signals::ExitDeadline deadline;
  if (invocation.settings.config.data.empty()) {
    throw UsageError("no data given: add --data FILE, what to evaluate on");
  }
  const LoadedModel model = load_model(invocation);
  TrainConfig config = invocation.settings.config;
  config.val_split = 0;
  const int64_t longest = model.parameters->config().block_size;
  if (!invocation.settings.given("block_size")) config.block_size = longest;
  if (config.block_size > longest) {
    throw UsageError("block_size: {} is more than the model's {}", config.block_size, longest);
  }
  DataSplit data = load_data(config, *model.tokenizer, *model.chat_template);
  const RowTable rows(data.train, resolve_packing(config, data.train.is_text), config.block_size);
  add_rows(data.train.report, rows);

  Json result = to_json(score(model, rows, config.batch_size), data.train.report);
  result["checkpoint"] = model.directory;
  ExactMatch match;
  if (const int64_t asked = invocation.integer("exact_match"); asked != 0) {
    ExactMatchOptions options;
    options.most = asked < 0 ? data.train.size() : static_cast<uint64_t>(asked);
    options.max_new_tokens = invocation.integer("max_new_tokens");
    options.show = static_cast<uint64_t>(invocation.integer("show"));
    std::vector<std::string> groups;
    if (invocation.has("group_by")) {
      groups = field_of_records(config.data, invocation.text("group_by"));
    }
    match = exact_match(model, data.train, groups, options);
    result["exact_match"] = to_json(match);
  }
  if (!config.json) print(result, match);
  return {ExitCode::ok, std::move(result)};
}

}  // namespace

Command eval_command() {
  Command command;
  command.name = "eval";
  command.summary = "Scores a model on data: loss, perplexity, bits per byte, exact answers.";
  command.examples = {
      "train_sft eval --checkpoint checkpoints/best_model --data held_out.txt",
      "train_sft eval --checkpoint checkpoints_instruct/best_model --data test.jsonl "
      "--exact_match 300 --group_by category",
  };
  command.own_options = {
      checkpoint_option(),
      own_option("exact_match", "int", 0,
                 "Ask this many examples and compare the greedy reply; -1: all; 0: none", -1, 1e12),
      own_option("group_by", "string", nullptr,
                 "A field of the records by which exact answers are counted"),
      own_option("max_new_tokens", "int", 64,
                 "An answer is cut when it runs on past its reference by this many tokens", 1, 1e9),
      own_option("show", "int", 0, "Print the first answers", 0, 1e9),
  };
  command.shared = {"data",        "data_format",   "field_map",  "data_vars",  "train_on",
                    "packing",     "overlong",      "block_size", "batch_size", "cache_dir",
                    "verify_data", "chat_template", "precision",  "threads"};
  command.run = run;
  return command;
}

}  // namespace train_sft::cli
