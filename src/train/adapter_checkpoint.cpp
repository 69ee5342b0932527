#include "train/adapter_checkpoint.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <filesystem>

#include "train/checkpoint_files.h"
#include "train/tensor_bytes.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/interop/adapter.h"

namespace train_sft {
namespace files = checkpoint_files;
namespace {

void load_merged(const std::string& directory, Parameters& parameters) {
  const ModelSource model = open_model(directory);
  for (const ParameterInfo& info : parameters.layout().parameters) {
    const at::Tensor values = at::empty(info.shape, at::kFloat);
    read_parameter(model, info.name,
                   {values.mutable_data_ptr<float>(), static_cast<size_t>(info.numel)});
    parameters.stored(info).copy_(values);
  }
  parameters.refresh_compute();
}

}  // namespace

std::string base_of(const std::string& checkpoint) {
  const std::string base = holds_adapter(checkpoint) ? adapter_base(checkpoint) : checkpoint;
  return std::filesystem::absolute(base).lexically_normal().string();
}

std::string checksum_of_model(const std::string& directory) {
  return checksum_of_file(join_path(directory, files::kModel));
}

void check_base(const TrainState& state, const std::string& checkpoint) {
  const std::string base = base_of(checkpoint);
  if (checksum_of_model(base) != state.base_checksum)
    throw CheckpointError(
        "{}: its base {} is not the model it was trained on (another checksum); restore that, or "
        "start from this adapter with --pretrained_model {}",
        checkpoint, base, checkpoint);
}

void load_adapted(const std::string& directory, Parameters& parameters) {
  const Training& training = parameters.training();
  if (!training.adapts()) return load_merged(directory, parameters);
  const Adapter adapter = read_adapter(directory);
  load_weights(adapter.base, parameters);
  const std::string path = join_path(directory, kAdapterWeights);
  size_t tensors = 0;
  for (const ParameterInfo& info : parameters.layout().parameters) {
    if (!info.adapter) continue;
    const SafetensorsEntry* entry = adapter.file->find(info.name);
    if (entry == nullptr)
      throw CheckpointError(
          "{}: tensor '{}' is missing: the adapter has other lora_targets than this run", path,
          info.name);
    copy_entry(*entry, parameters.stored(info), path);
    ++tensors;
  }
  if (tensors != adapter.file->entries().size())
    throw CheckpointError("{}: holds {} tensors, this run's lora_targets have {}", path,
                          adapter.file->entries().size(), tensors);
  const double scale = adapter.modules.begin()->second.scale;
  if (std::abs(scale - training.lora_scale()) > 1e-9 * scale)
    throw CheckpointError("{}: lora_alpha / lora_rank is {} there and {} in this run", directory,
                          scale, training.lora_scale());
  parameters.refresh_compute();
}

}  // namespace train_sft
