#include <cstdio>

#include "cli/commands.h"
#include "cli/exact_match.h"
#include "cli/loaded_model.h"
#include "cli/model_score.h"
#include "cli/multiple_choice.h"
#include "train_sft/data/eval_sets.h"

namespace train_sft::cli {
namespace {

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

void print_score(const std::string& name, const Json& score) {
  fmt::print("{}{}loss {:.4f}, perplexity {:.3f}", name, name.empty() ? "" : ": ",
             score["loss"].get<double>(), score["perplexity"].get<double>());
  if (score.contains("bits_per_byte")) {
    fmt::print(", bits per byte {:.4f}", score["bits_per_byte"].get<double>());
  }
  fmt::print(", {:.2f} % of {} tokens predicted\n", 100 * score["token_accuracy"].get<double>(),
             score["scored_tokens"].get<int64_t>());
}

void print(const ExactMatch& match) {
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

void print(const MultipleChoice& result) {
  fmt::print(
      "multiple choice: {} questions; right by probability {:.2f} %, a character's {:.2f} %, a "
      "token's {:.2f} %\n",
      result.questions, 100 * result.accuracy(result.right),
      100 * result.accuracy(result.right_norm), 100 * result.accuracy(result.right_per_token));
  if (result.cut > 0)
    fmt::print("{} questions lost their beginning: they are longer than the model's context\n",
               result.cut);
}

// The settings under which all sets are read, and what is asked of the model about them.
struct Evaluation {
  const Invocation& invocation;
  TrainConfig config;
  LoadedModel model;
  Json result = Json::object();

  bool quiet() const { return config.json; }
  void data();
  void named_sets();
  void choices();
};

void Evaluation::data() {
  DataSplit split = load_data(config, *model.tokenizer, *model.chat_template);
  Dataset& data = split.train;
  const RowTable rows(data, resolve_packing(config, data.is_text), config.block_size);
  add_rows(data.report, rows);
  result.update(to_json(score(model, rows, config.batch_size, "evaluating"), data.report));
  if (!quiet()) print_score("", result);
  const int64_t asked = invocation.integer("exact_match");
  if (asked == 0) return;
  ExactMatchOptions options;
  options.most = asked < 0 ? data.size() : static_cast<uint64_t>(asked);
  options.max_new_tokens = invocation.integer("max_new_tokens");
  options.show = static_cast<uint64_t>(invocation.integer("show"));
  std::vector<std::string> groups;
  if (invocation.has("group_by")) {
    groups = field_of_records(config.data, invocation.text("group_by"));
  }
  const ExactMatch match = exact_match(model, data, groups, options);
  result["exact_match"] = to_json(match);
  if (!quiet()) print(match);
}

void Evaluation::named_sets() {
  for (const auto& set : load_eval_sets(config, *model.tokenizer, *model.chat_template)) {
    const ModelScore scored = score(model, set->rows, config.batch_size, set->name);
    Json& json = result["sets"][set->name];
    json = to_json(scored, set->data.report);
    if (!quiet()) print_score(set->name, json);
  }
}

void Evaluation::choices() {
  if (!invocation.has("multiple_choice")) return;
  const auto questions = read_questions(invocation.text("multiple_choice"));
  const auto show = static_cast<uint64_t>(invocation.integer("show"));
  const MultipleChoice scored = multiple_choice(model, questions, show);
  result["multiple_choice"] = to_json(scored);
  if (!quiet()) print(scored);
}

Outcome run_eval(const Invocation& invocation) {
  TrainConfig config = invocation.settings.config;
  if (config.data.empty() && config.eval_data.empty() && !invocation.has("multiple_choice")) {
    throw UsageError(
        "no data given: add --data FILE, what to evaluate on (or --eval_data NAME=FILE, "
        "--multiple_choice FILE)");
  }
  if (config.data.empty() && invocation.integer("exact_match") != 0) {
    throw UsageError("exact_match: add --data FILE with the examples to ask");
  }
  LoadedModel model = load_model(invocation);
  config.val_split = 0;
  const int64_t longest = model.parameters->config().block_size;
  if (!invocation.settings.given("block_size")) config.block_size = longest;
  if (config.block_size > longest) {
    throw UsageError("block_size: {} is more than the model's {}", config.block_size, longest);
  }
  const std::string directory = model.directory;
  Evaluation evaluation{invocation, std::move(config), std::move(model)};
  if (!evaluation.config.data.empty()) evaluation.data();
  evaluation.named_sets();
  evaluation.choices();
  evaluation.result["checkpoint"] = directory;
  return {ExitCode::ok, std::move(evaluation.result)};
}

}  // namespace

Command eval_command() {
  Command command;
  command.name = "eval";
  command.summary =
      "Scores a model: loss, perplexity, bits per byte, exact answers, multiple choice.";
  command.examples = {
      "train_sft eval --checkpoint checkpoints/best_model --data held_out.txt",
      "train_sft eval --checkpoint checkpoints_instruct/best_model --data test.jsonl "
      "--exact_match 300 --group_by category",
      "train_sft eval --checkpoint sft/best_model --eval_data base=stories.txt "
      "--eval_data chats=held_out.jsonl --multiple_choice hellaswag.jsonl",
  };
  Option choices = own_option("multiple_choice", "string", nullptr,
                              "Questions in HellaSwag's form: ctx, endings, label");
  choices.value_name = "PATH";
  command.own_options = {
      checkpoint_option(),
      own_option("exact_match", "int", 0,
                 "Ask this many examples and compare the greedy reply; -1: all; 0: none", -1, 1e12),
      own_option("group_by", "string", nullptr,
                 "A field of the records by which exact answers are counted"),
      own_option("max_new_tokens", "int", 64,
                 "An answer is cut when it runs on past its reference by this many tokens", 1, 1e9),
      std::move(choices),
      own_option("show", "int", 0, "Print the first answers; scores of the first questions", 0,
                 1e9),
  };
  command.shared = {"data",      "eval_data",   "data_format",   "field_map",  "data_vars",
                    "train_on",  "packing",     "overlong",      "block_size", "batch_size",
                    "cache_dir", "verify_data", "chat_template", "precision",  "threads"};
  command.run = run_eval;
  return command;
}

}  // namespace train_sft::cli
