// A checkpoint is whole or not there. Order of durability: files, their folder, the name in the run
// directory, then the links that promise it.
#include <cmath>

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

// Adapters are stored as their masters, whatever they are computed in.
bool stores_masters_apart(const Parameters& parameters) {
  return parameters.masters_apart() && !parameters.training().adapts();
}

void check_finite(const CheckpointParts& parts) {
  if (!std::isfinite(ops::sum_of_squares(parts.parameters->master())))
    throw DivergedError(
        "step {}: the weights hold NaN or infinity and were not saved; the last "
        "checkpoint is the one to go on from, with a lower learning_rate",
        parts.state->step);
}

void check_space(const std::string& out_dir, const CheckpointParts& parts) {
  const Parameters& parameters = *parts.parameters;
  const uint64_t moments =
      parts.optimizer->exp_avg().nbytes() + parts.optimizer->exp_avg_sq().nbytes();
  const uint64_t weights =
      parameters.training().adapts() ? moments / 2 : parameters.compute().nbytes();
  uint64_t needed = kSmallFilesBytes + weights + moments;
  if (stores_masters_apart(parameters)) needed += parameters.master().nbytes();
  const uint64_t free = free_bytes_at(out_dir);
  if (free < needed)
    throw ResourceError(
        "{}: a checkpoint needs {} and {} are free; the last checkpoint is whole. "
        "Free some space, lower keep or keep_optimizer, or choose another out_dir, "
        "then go on with --resume auto",
        out_dir, human_bytes(static_cast<double>(needed)), human_bytes(static_cast<double>(free)));
}

// Of a buffer of what is trained.
void add_trained(std::vector<SafetensorsEntry>& entries, const std::string& prefix,
                 const ParameterLayout& layout, const at::Tensor& flat) {
  for (const auto& parameter : layout.parameters)
    if (parameter.trained())
      entries.push_back(safetensors_entry(
          prefix + parameter.name,
          flat.narrow(0, parameter.trained_offset, parameter.numel).view(parameter.shape)));
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
  CheckpointWriter(std::string directory, const CheckpointParts& parts)
      : directory_(std::move(directory)), parts_(parts) {
    manifest_.step = parts.state->step;
  }

  void write() {
    make_directories(directory_);
    write_configs();
    write_model();
    parts_.tokenizer->save(directory_, has_template() ? parts_.chat_template->jinja() : "");
    write_optimizer();
    write_text(files::kTrainState, dump_json(to_json(*parts_.state)));
    record_others(directory_, manifest_);  // the tokenizer wrote its files itself
    const std::string manifest = dump_json(files::to_json(manifest_));
    write_text(files::kManifest, manifest);
  }

 private:
  std::string path(const std::string& name) const { return join_path(directory_, name); }
  // One whose tokens the tokenizer lacks is of no use to anybody.
  bool has_template() const {
    return parts_.chat_template != nullptr && parts_.chat_template->fits(*parts_.tokenizer);
  }

  void write_text(const std::string& name, const std::string& text) {
    FileWriter file(path(name), FileWriter::Mode::truncate);
    file.write(text);
    file.sync();
    file.close();
    manifest_.files[name] = {text.size(), checksum_of(text)};
  }

  void write_tensors(const std::string& name, const std::vector<SafetensorsEntry>& entries) {
    const std::string checksum = write_safetensors(path(name), entries, {{"format", "pt"}});
    manifest_.files[name] = {file_size(path(name)), checksum};
  }

  void write_configs() {
    const Tokenizer& tokenizer = *parts_.tokenizer;
    Json config = to_huggingface(parts_.parameters->config(), tokenizer.bos_id(),
                                 tokenizer.eos_id(), tokenizer.pad_id());
    const bool bf16 = parts_.parameters->compute().scalar_type() == at::kBFloat16;
    config["torch_dtype"] = bf16 ? "bfloat16" : "float32";
    const Training& training = parts_.parameters->training();
    if (training.adapts())
      write_text(kAdapterConfig, dump_json(peft_config(parts_.parameters->config(), training,
                                                       parts_.state->base_model)));
    else
      write_text(files::kModelConfig, dump_json(config));

    Json generation = Json::object();
    Json ends = Json::array();
    const auto add_end = [&](int32_t id) {
      if (id >= 0 && std::find(ends.begin(), ends.end(), Json(id)) == ends.end())
        ends.push_back(id);
    };
    add_end(tokenizer.eos_id());
    if (has_template()) add_end(parts_.chat_template->end_of_reply(tokenizer));
    if (tokenizer.bos_id() >= 0) generation["bos_token_id"] = tokenizer.bos_id();
    if (!ends.empty()) generation["eos_token_id"] = ends;
    if (tokenizer.pad_id() >= 0) generation["pad_token_id"] = tokenizer.pad_id();
    write_text(files::kGenerationConfig, dump_json(generation));
  }

  void write_model() {
    const Parameters& parameters = *parts_.parameters;
    const bool adapts = parameters.training().adapts();
    std::vector<SafetensorsEntry> entries;
    for (const auto& parameter : parameters.layout().parameters)
      if (parameter.adapter == adapts)
        entries.push_back(
            safetensors_entry(parameter.name, adapts ? parameters.master(parameter.name)
                                                     : parameters.compute(parameter.name)));
    write_tensors(adapts ? kAdapterWeights : files::kModel, entries);
  }

  void write_optimizer() {
    const auto& layout = parts_.parameters->layout();
    std::vector<SafetensorsEntry> entries;
    if (stores_masters_apart(*parts_.parameters))
      add_trained(entries, files::kMasterPrefix, layout, parts_.parameters->master());
    add_trained(entries, files::kExpAvgPrefix, layout, parts_.optimizer->exp_avg());
    add_trained(entries, files::kExpAvgSqPrefix, layout, parts_.optimizer->exp_avg_sq());
    write_tensors(files::kOptimizer, entries);
  }

  std::string directory_;
  const CheckpointParts& parts_;
  files::Manifest manifest_;
};

// Writes under a temporary name and commits. What a failure leaves is cleared at once: a full disk
// must not be kept full by half a checkpoint.
void write_and_commit(const std::string& out_dir, const std::string& name,
                      const CheckpointParts& parts) {
  const std::string directory = join_path(out_dir, name);
  const std::string temporary = join_path(out_dir, files::kSavingPrefix + name);
  try {
    remove_tree(temporary);
    CheckpointWriter(temporary, parts).write();
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

void seal_model_directory(const std::string& directory) {
  files::Manifest manifest;
  record_others(directory, manifest);
  FileWriter file(join_path(directory, files::kManifest), FileWriter::Mode::truncate);
  file.write(dump_json(files::to_json(manifest)));
  file.sync();
}

std::string save_checkpoint(const std::string& out_dir, const CheckpointParts& parts,
                            bool is_best) try {
  TRAIN_SFT_CHECK(parts.parameters && parts.optimizer && parts.state && parts.tokenizer,
                  "a checkpoint without all of its parts");
  check_finite(parts);
  make_directories(out_dir);
  const std::string name = files::step_name(parts.state->step);
  const std::string directory = join_path(out_dir, name);
  if (path_exists(directory) && verify_checkpoint(directory).empty() &&
      files::read_manifest(directory).has(files::kOptimizer)) {
    log::debug("{} is there already", directory);
  } else {
    check_space(out_dir, parts);
    write_and_commit(out_dir, name, parts);
  }
  files::point_links(out_dir, parts.state->step,
                     is_best ? parts.state->step : parts.state->best_step);
  remove_tree(join_path(out_dir, files::kRemovingPrefix + name));
  return directory;
} catch (const DataError& error) {  // reading back what was just written
  throw ResourceError("{}", error.what());
}

}  // namespace train_sft
