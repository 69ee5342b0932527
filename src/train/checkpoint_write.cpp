// A checkpoint is whole or not there. Order of durability: files, their folder, the name in the run
// directory, then the links that promise it.
#include <cmath>

#include "train/checkpoint_contents.h"
#include "train/checkpoint_files.h"
#include "train/tensor_bytes.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"
#include "train_sft/config/model_config.h"
#include "train_sft/interop/adapter.h"
#include "train_sft/interop/safetensors.h"
#include "train_sft/ops/adamw.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {
namespace files = checkpoint_files;
namespace {

// Beside the tensors: tokenizer, settings and what the file system needs for itself.
constexpr uint64_t kSmallFilesBytes = 32'000'000;

void check_space(const std::string& out_dir, const CheckpointContents& contents) {
  uint64_t needed = kSmallFilesBytes;
  for (const auto* entries : {&contents.model, &contents.optimizer})
    for (const auto& entry : *entries) needed += entry.values.nbytes();
  const uint64_t free = free_bytes_at(out_dir);
  if (free < needed)
    throw ResourceError(
        "{}: a checkpoint needs {} and {} are free; the last checkpoint is whole. "
        "Free some space, lower keep or keep_optimizer, or choose another out_dir, "
        "then go on with --resume auto",
        out_dir, human_bytes(static_cast<double>(needed)), human_bytes(static_cast<double>(free)));
}

// Files that somebody else wrote are made durable and recorded like ours.
void record_others(const std::string& directory, files::Manifest& manifest) {
  for (const auto& name : list_directory(directory)) {
    const std::string path = join_path(directory, name);
    if (manifest.has(name)) continue;
    FileWriter(path, FileWriter::Mode::append).sync();
    manifest.files[name] = {file_size(path), checksum_of_file(path)};
  }
}

class CheckpointWriter {
 public:
  CheckpointWriter(std::string directory, const CheckpointContents& contents)
      : directory_(std::move(directory)), contents_(contents) {
    manifest_.step = contents.state.step;
  }

  void write() {
    make_directories(directory_);
    write_configs();
    write_tensors(adapts() ? kAdapterWeights : files::kModel, contents_.model);
    contents_.tokenizer->save(directory_, has_template() ? contents_.chat_template->jinja() : "");
    write_tensors(files::kOptimizer, contents_.optimizer);
    write_text(files::kTrainState, dump_json(to_json(contents_.state)));
    manifest_.files.insert(contents_.parts_written.begin(), contents_.parts_written.end());
    record_others(directory_, manifest_);  // the tokenizer wrote its files itself
    const std::string manifest = dump_json(files::to_json(manifest_));
    write_text(files::kManifest, manifest);
  }

 private:
  std::string path(const std::string& name) const { return join_path(directory_, name); }
  // One whose tokens the tokenizer lacks is of no use to anybody.
  bool has_template() const {
    return contents_.chat_template != nullptr &&
           contents_.chat_template->fits(*contents_.tokenizer);
  }
  bool adapts() const { return contents_.training.adapts(); }

  void write_text(const std::string& name, const std::string& text) {
    FileWriter file(path(name), FileWriter::Mode::truncate);
    file.write(text);
    file.sync();
    file.close();
    manifest_.files[name] = {text.size(), checksum_of(text)};
  }

  void write_tensors(const std::string& name,
                     const std::vector<CheckpointContents::Stored>& stored) {
    std::vector<SafetensorsEntry> entries;
    for (const auto& entry : stored) entries.push_back(safetensors_entry(entry.name, entry.values));
    const std::string checksum = write_safetensors(path(name), entries, {{"format", "pt"}});
    manifest_.files[name] = {file_size(path(name)), checksum};
  }

  void write_configs() {
    const Tokenizer& tokenizer = *contents_.tokenizer;
    Json config = to_huggingface(contents_.config, tokenizer.bos_id(), tokenizer.eos_id(),
                                 tokenizer.pad_id());
    config["torch_dtype"] = contents_.is_bf16 ? "bfloat16" : "float32";
    if (adapts())
      write_text(kAdapterConfig, dump_json(peft_config(contents_.config, contents_.training,
                                                       contents_.state.base_model)));
    else
      write_text(files::kModelConfig, dump_json(config));

    Json generation = Json::object();
    Json ends = Json::array();
    const auto add_end = [&](int32_t id) {
      if (id >= 0 && std::find(ends.begin(), ends.end(), Json(id)) == ends.end())
        ends.push_back(id);
    };
    add_end(tokenizer.eos_id());
    if (has_template()) add_end(contents_.chat_template->end_of_reply(tokenizer));
    if (tokenizer.bos_id() >= 0) generation["bos_token_id"] = tokenizer.bos_id();
    if (!ends.empty()) generation["eos_token_id"] = ends;
    if (tokenizer.pad_id() >= 0) generation["pad_token_id"] = tokenizer.pad_id();
    write_text(files::kGenerationConfig, dump_json(generation));
  }

  std::string directory_;
  const CheckpointContents& contents_;
  files::Manifest manifest_;
};

// Writes under a temporary name and commits. What a failure leaves is cleared at once: a full disk
// must not be kept full by half a checkpoint.
void write_and_commit(const std::string& out_dir, const std::string& name,
                      const CheckpointContents& contents) {
  const std::string directory = join_path(out_dir, name);
  const std::string temporary = saving_directory(out_dir, contents.state.step);
  try {
    if (contents.parts_written.empty()) remove_tree(temporary);
    CheckpointWriter(temporary, contents).write();
    // Only a damaged one or one thinned to weights can stand in the way.
    if (path_exists(directory)) {
      const std::string removing = join_path(out_dir, files::kRemovingPrefix + name);
      remove_tree(removing);
      commit_directory(directory, removing);
    }
    commit_directory(temporary, directory);
  } catch (const Error&) {
    try {
      remove_tree(temporary);
    } catch (const Error&) {  // the next start clears it away
    }
    throw;
  }
}

}  // namespace

std::string saving_directory(const std::string& out_dir, int64_t step) {
  return join_path(out_dir, files::kSavingPrefix + files::step_name(step));
}

files::FileRecord write_optimizer_part(const std::string& out_dir,
                                       const CheckpointContents& contents, int rank) try {
  const std::string path =
      join_path(saving_directory(out_dir, contents.state.step), files::optimizer_part(rank));
  std::vector<SafetensorsEntry> entries;
  for (const auto& entry : contents.optimizer)
    entries.push_back(safetensors_entry(entry.name, entry.values));
  const std::string checksum = write_safetensors(path, entries, {{"format", "pt"}});
  return {file_size(path), checksum};
} catch (const DataError& error) {
  throw ResourceError("{}", error.what());
}

void seal_model_directory(const std::string& directory) {
  files::Manifest manifest;
  record_others(directory, manifest);
  FileWriter file(join_path(directory, files::kManifest), FileWriter::Mode::truncate);
  file.write(dump_json(files::to_json(manifest)));
  file.sync();
}

CheckpointContents contents_of(const CheckpointParts& parts) {
  TRAIN_SFT_CHECK(parts.parameters && parts.optimizer && parts.state && parts.tokenizer,
                  "a checkpoint without all of its parts");
  const Parameters& parameters = *parts.parameters;
  CheckpointContents contents;
  contents.config = parameters.config();
  contents.training = parameters.training();
  contents.is_bf16 = parameters.compute().scalar_type() == at::kBFloat16;
  contents.state = *parts.state;
  contents.tokenizer = parts.tokenizer;
  contents.chat_template = parts.chat_template;

  // Adapters are stored as their masters, whatever they are computed in.
  const bool adapts = contents.training.adapts();
  const auto& layout = parameters.layout().parameters;
  for (const ParameterInfo& info : layout)
    if (info.adapter == adapts)
      contents.model.push_back(
          {info.name, on_cpu(adapts ? parameters.master(info.name) : parameters.compute(info.name)),
           info.trained()});
  const Optimizer& optimizer = *parts.optimizer;
  const auto all = [](const ParameterInfo&) { return true; };
  const auto add_trained = [&](const char* prefix, const auto& values, const auto& holds) {
    for (const ParameterInfo& info : layout)
      if (optimizer.updates(info) && holds(info))
        contents.optimizer.push_back({prefix + info.name, on_cpu(values(info)), true});
  };
  if (parameters.masters_apart() && !adapts)
    add_trained(
        files::kMasterPrefix,
        [&](const ParameterInfo& info) { return parameters.master(info.name); }, all);
  add_trained(
      files::kExpAvgPrefix, [&](const ParameterInfo& info) { return optimizer.first_moment(info); },
      all);
  add_trained(
      files::kExpAvgSqPrefix,
      [&](const ParameterInfo& info) { return optimizer.second_moment(info); },
      [&](const ParameterInfo& info) { return optimizer.has_second_moment(info); });
  if (parts.engine != nullptr)
    for (const auto& [name, values] : parts.engine->fp8_state())
      contents.optimizer.push_back({name, on_cpu(values), true});
  return contents;
}

void check_finite(const CheckpointParts& parts) {
  if (!std::isfinite(ops::sum_of_squares(parts.parameters->master())))
    throw DivergedError(
        "step {}: the weights hold NaN or infinity and were not saved; the last "
        "checkpoint is the one to go on from, with a lower learning_rate",
        parts.state->step);
}

std::string write_checkpoint(const std::string& out_dir, const CheckpointContents& contents,
                             bool is_best) try {
  make_directories(out_dir);
  const TrainState& state = contents.state;
  const std::string name = files::step_name(state.step);
  const std::string directory = join_path(out_dir, name);
  if (path_exists(directory) && verify_checkpoint(directory).empty() &&
      files::read_manifest(directory).has(files::kOptimizer)) {
    log::debug("{} is there already", directory);
    remove_tree(saving_directory(out_dir, state.step));
  } else {
    check_space(out_dir, contents);
    write_and_commit(out_dir, name, contents);
  }
  files::point_links(out_dir, state.step, is_best ? state.step : state.best_step);
  remove_tree(join_path(out_dir, files::kRemovingPrefix + name));
  return directory;
} catch (const DataError& error) {  // reading back what was just written
  throw ResourceError("{}", error.what());
}

std::string save_checkpoint(const std::string& out_dir, const CheckpointParts& parts,
                            bool is_best) {
  const CheckpointContents contents = contents_of(parts);
  check_finite(parts);
  return write_checkpoint(out_dir, contents, is_best);
}

}  // namespace train_sft
