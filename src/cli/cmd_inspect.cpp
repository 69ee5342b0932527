#include <cmath>
#include <cstdio>

#include "cli/byte_tokenizer.h"
#include "cli/commands.h"
#include "cli/utf8_stream.h"
#include "train_sft/base/file.h"
#include "train_sft/base/progress.h"
#include "train_sft/data/loader.h"
#include "train_sft/model/parameters.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft::cli {
namespace {

uint64_t bytes_of_directory(const std::string& directory) {
  uint64_t bytes = 0;
  for (const std::string& name : list_directory(directory)) {
    const std::string path = join_path(directory, name);
    if (!is_directory(path)) bytes += file_size(path);
  }
  return bytes;
}

Json inspect_checkpoint(const std::string& path, bool quiet) {
  const std::string directory = resolve_checkpoint(path);
  const ModelConfig model = read_model_config(directory);
  const std::string fault = verify_checkpoint(directory);
  Json json{{"kind", "checkpoint"},
            {"path", directory},
            {"valid", fault.empty()},
            {"params", parameter_layout(model).count()},
            {"bytes", bytes_of_directory(directory)},
            {"model", shape_json(model)}};
  if (!fault.empty()) json["fault"] = fault;
  if (path_exists(join_path(directory, "train_state.json"))) {
    const TrainState state = read_train_state(directory);
    json["step"] = state.step;
    json["tokens"] = state.tokens;
    json["examples"] = state.examples;
    json["precision"] = state.precision;
    json["has_optimizer"] = path_exists(join_path(directory, "optimizer.safetensors"));
    if (state.best_step >= 0) {
      json["best_val_loss"] = state.best_val_loss;
      json["best_step"] = state.best_step;
    }
  }
  if (quiet) return json;
  fmt::print("checkpoint {} ({})\n", directory, fault.empty() ? "valid" : "NOT VALID: " + fault);
  fmt::print("  {} parameters, {} on disk\n", human_count(json["params"].get<double>()),
             human_bytes(json["bytes"].get<double>()));
  for (const auto& [name, value] : json["model"].items())
    fmt::print("  {} {}\n", name, value.dump());
  for (const char* name :
       {"step", "tokens", "examples", "precision", "has_optimizer", "best_val_loss", "best_step"}) {
    if (json.contains(name)) fmt::print("  {} {}\n", name, json[name].dump());
  }
  return json;
}

Json inspect_tokenizer(const std::string& path, int64_t show, bool quiet) {
  const auto tokenizer = load_tokenizer(path);
  Json json{{"kind", "tokenizer"},           {"path", path},
            {"type", tokenizer->kind()},     {"vocab_size", tokenizer->vocab_size()},
            {"bos_id", tokenizer->bos_id()}, {"eos_id", tokenizer->eos_id()},
            {"pad_id", tokenizer->pad_id()}, {"fingerprint", tokenizer->fingerprint()}};
  const int32_t shown = static_cast<int32_t>(std::min<int64_t>(show, tokenizer->vocab_size()));
  for (int32_t id = 0; id < shown; ++id) {
    json["tokens"].push_back(well_formed(tokenizer->token_bytes(id)));
  }
  if (quiet) return json;
  fmt::print("tokenizer {}: {}, {} tokens; bos {}, eos {}, pad {}\n", path, tokenizer->kind(),
             tokenizer->vocab_size(), tokenizer->bos_id(), tokenizer->eos_id(),
             tokenizer->pad_id());
  for (int32_t id = 0; id < shown; ++id) {
    fmt::print("  {:>6} {}\n", id, json["tokens"][static_cast<size_t>(id)].dump());
  }
  return json;
}

constexpr size_t kLongestShown = 100000;  // bytes; a text file is one example, whatever its size

// An example's text with what is learned between ⟦ and ⟧.
std::string marked(const Dataset& dataset, const Tokenizer& tokenizer, uint64_t example) {
  std::string text;
  bool open = false;
  const uint64_t end = dataset.offsets[example + 1];
  for (uint64_t i = dataset.offsets[example]; i < end && text.size() < kLongestShown; ++i) {
    const bool learned = !dataset.weights.empty() && dataset.weights[i] > 0;
    if (learned != open) text += learned ? "⟦" : "⟧";
    open = learned;
    text += tokenizer.token_bytes(dataset.tokens[i]);
  }
  return well_formed(text + (open ? "⟧" : ""));
}

Json inspect_data(const Invocation& invocation, const std::string& path) {
  TrainConfig config = invocation.settings.config;
  config.data = {path};
  config.val_split = 0;
  std::unique_ptr<Tokenizer> tokenizer;
  if (config.tokenizer.empty()) {
    tokenizer = std::make_unique<ByteTokenizer>();
    // No run will ask for these tokens.
    if (!invocation.settings.given("cache_dir")) config.cache_dir = "none";
    // Bytes are several times as many as tokens: no limit, so that nothing is counted as cut.
    if (!invocation.settings.given("block_size")) config.block_size = 1 << 24;
  } else {
    tokenizer = load_tokenizer(config.tokenizer);
  }
  const auto rendering = chat_template_for(config.chat_template, config.tokenizer);
  DataSplit split = load_data(config, *tokenizer, *rendering);
  Dataset& data = split.train;
  if (!config.tokenizer.empty()) {
    add_rows(data.report, RowTable(data, resolve_packing(config, data.is_text), config.block_size));
  }
  Json json{{"kind", "data"}, {"path", path}, {"tokenizer", tokenizer->kind()}};
  json.update(to_json(data.report));
  const uint64_t shown = std::min(static_cast<uint64_t>(invocation.integer("show")), data.size());
  for (uint64_t example = 0; example < shown; ++example) {
    json["shown"].push_back(marked(data, *tokenizer, example).substr(0, kLongestShown));
  }
  if (config.json) return json;
  fmt::print(
      "data {}{}\n{}", path,
      config.tokenizer.empty() ? " (counted in bytes; --tokenizer PATH counts its tokens)" : "",
      describe(data.report));
  for (uint64_t example = 0; example < shown; ++example) {
    fmt::print("\n-- {} (learned: between ⟦ and ⟧)\n{}\n", example,
               json["shown"][example].get<std::string>());
  }
  return json;
}

Json inspect_cache(const std::string& path, bool quiet) {
  Json json{{"kind", "token cache"}};
  json.update(inspect_token_cache(path));
  if (quiet) return json;
  fmt::print("token cache {} ({})\n", path,
             json["valid"] ? "valid" : "NOT VALID: " + json["fault"].get<std::string>());
  if (!json.contains("bytes")) return json;
  fmt::print("  {} of {}\n", human_bytes(json["bytes"].get<double>()), json["files"].dump());
  for (const char* side : {"train", "validation"}) {
    const DataReport report = data_report_from_json(json[side], path);
    if (report.examples > 0) fmt::print("  {}: {}", side, describe(report));
  }
  return json;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Outcome run(const Invocation& invocation) {
  if (invocation.positionals.size() != 1) {
    throw UsageError(
        "inspect takes one PATH: a checkpoint, a data file, a tokenizer or a token cache");
  }
  const std::string& path = invocation.positionals[0];
  const bool quiet = invocation.settings.config.json;
  const bool link = !read_link(path).empty();
  if (!link && !path_exists(path)) throw DataError("{}: there is no such file or directory", path);
  const bool directory = is_directory(path);
  const bool only_tokenizer =
      directory && holds_tokenizer(path) && !path_exists(join_path(path, "config.json"));
  if (only_tokenizer ||
      (!directory && (ends_with(path, ".model") || base_name(path) == "tokenizer.json"))) {
    return {ExitCode::ok, inspect_tokenizer(path, invocation.integer("show"), quiet)};
  }
  if (directory && is_token_cache(path)) {
    Json json = inspect_cache(path, quiet);
    const bool valid = json["valid"].get<bool>();
    return {valid ? ExitCode::ok : ExitCode::data, std::move(json)};
  }
  if (directory || link) {
    Json json = inspect_checkpoint(path, quiet);
    const bool valid = json["valid"].get<bool>();
    return {valid ? ExitCode::ok : ExitCode::checkpoint, std::move(json)};
  }
  return {ExitCode::ok, inspect_data(invocation, path)};
}

}  // namespace

Command inspect_command() {
  Command command;
  command.name = "inspect";
  command.arguments = "PATH";
  command.summary = "Says what a checkpoint, a data file, a tokenizer or a token cache holds.";
  command.examples = {
      "train_sft inspect checkpoints/best_model",
      "train_sft inspect alpaca.json --tokenizer checkpoints/best_model --show 3",
      "train_sft inspect tokenizer.model --show 300",
      "train_sft inspect .cache/train_sft/4f0c…",
  };
  command.own_options = {
      own_option("show", "int", 0, "Print this many examples or tokens", 0, 1e9)};
  command.shared = {"data_format",   "field_map", "data_vars",   "train_on",
                    "chat_template", "packing",   "overlong",    "tokenizer",
                    "block_size",    "cache_dir", "verify_data", "threads"};
  command.run = run;
  return command;
}

}  // namespace train_sft::cli
