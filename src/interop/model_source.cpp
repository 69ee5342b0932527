#include "train_sft/interop/model_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "interop/map_file.h"
#include "interop/rearrange.h"
#include "interop/source_parts.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/config/parameter_layout.h"
#include "train_sft/interop/adapter.h"

namespace train_sft {
namespace {

constexpr std::string_view kZipMagic{"PK\x03\x04", 4};
constexpr std::string_view kLlmcMagic{"\xC6\xD7\x34\x01", 4};  // 20240326, little-endian

std::string describe(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void check_shape(const SourceTensor& tensor, std::vector<int64_t> wanted, Rearrange rearrange,
                 const std::string& path) {
  if (rearrange == Rearrange::transpose && wanted.size() == 2) std::swap(wanted[0], wanted[1]);
  if (tensor.shape != wanted)
    throw CheckpointError("{}: tensor '{}' has shape {}, the model's configuration needs {}", path,
                          tensor.name, describe(tensor.shape), describe(wanted));
}

bool begins_with(const std::string& path, std::string_view magic) {
  const auto file = map_model_file(path);
  return file.bytes().size() >= magic.size() &&
         std::string_view(reinterpret_cast<const char*>(file.bytes().data()), magic.size()) ==
             magic;
}

}  // namespace

void match_parameters(ModelSource& model, const std::vector<SourceTensor>& tensors,
                      const std::function<Expected(const std::string& parameter)>& expected) {
  // Said before a layout of as many layers is made: a number in a small file costs nothing to
  // write.
  if (model.config.n_layer > static_cast<int64_t>(tensors.size()))
    throw CheckpointError("{}: announces {} layers and holds {} tensors", model.path,
                          model.config.n_layer, tensors.size());
  std::unordered_map<std::string, const SourceTensor*> by_name;
  for (const SourceTensor& tensor : tensors) by_name.emplace(tensor.name, &tensor);
  std::set<std::string> used;
  for (const ParameterInfo& parameter : parameter_layout(model.config).parameters) {
    const Expected wanted = expected(parameter.name);
    const auto found = by_name.find(wanted.tensor);
    if (found == by_name.end()) {
      if (!wanted.optional)
        throw CheckpointError("{}: tensor '{}' is missing", model.path, wanted.tensor);
      model.parameters[parameter.name] = {{wanted.tensor, {}, {}, {}}, Rearrange::zeros, 0, {}};
      continue;
    }
    check_shape(*found->second, parameter.shape, wanted.rearrange, model.path);
    model.parameters[parameter.name] = {*found->second, wanted.rearrange, wanted.heads, {}};
    used.insert(wanted.tensor);
  }
  for (const SourceTensor& tensor : tensors)
    if (!used.contains(tensor.name))
      throw CheckpointError(
          "{}: tensor '{}' belongs to no parameter of this architecture as it is implemented here",
          model.path, tensor.name);
}

bool is_conv1d_weight(const std::string& parameter) {
  return parameter.ends_with(".weight") && parameter.find(".c_") != parameter.npos;
}

void check_config(const ModelSource& model) {
  try {
    validate(model.config);
  } catch (const UsageError& error) {
    throw CheckpointError("{}: {}", model.path, error.what());
  }
}

namespace {

void add_update(const LowRankUpdate& update, std::span<float> out) {
  const auto rank = static_cast<size_t>(update.a.shape[0]);
  const auto columns = static_cast<size_t>(update.a.shape[1]);
  const auto rows = static_cast<size_t>(update.b.shape[0]);
  std::vector<float> a(rank * columns), b(rows * rank), row(columns);
  to_floats(update.a.type, update.a.bytes, a);
  to_floats(update.b.type, update.b.bytes, b);
  for (size_t o = 0; o < rows; ++o) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (size_t r = 0; r < rank; ++r)
      for (size_t i = 0; i < columns; ++i) row[i] += b[o * rank + r] * a[r * columns + i];
    for (size_t i = 0; i < columns; ++i)
      out[update.transposed ? i * rows + o : o * columns + i] +=
          static_cast<float>(update.scale) * row[i];
  }
}

void read_base(const ParameterSource& source, std::span<float> out) {
  const SourceTensor& tensor = source.tensor;
  if (source.rearrange == Rearrange::zeros) return std::fill(out.begin(), out.end(), 0.0f);
  if (source.rearrange == Rearrange::none) return to_floats(tensor.type, tensor.bytes, out);
  std::vector<float> values(out.size());
  to_floats(tensor.type, tensor.bytes, values);
  const int64_t rows = tensor.shape[0];
  values = source.rearrange == Rearrange::transpose ? transposed(values, rows, tensor.shape[1])
                                                    : unpermuted_rotary(values, source.heads, rows);
  std::copy(values.begin(), values.end(), out.begin());
}

}  // namespace

void read_parameter(const ModelSource& model, const std::string& name, std::span<float> out) {
  const auto found = model.parameters.find(name);
  TRAIN_SFT_CHECK(found != model.parameters.end(), "no parameter '{}'", name);
  read_base(found->second, out);
  if (found->second.update) add_update(*found->second.update, out);
}

ModelSource open_model(const std::string& path, const OpenOptions& options) {
  if (!path_exists(path)) throw CheckpointError("{}: there is no such file or directory", path);
  ModelSource model;
  if (is_directory(path) && holds_adapter(path)) {
    const Adapter adapter = read_adapter(path);
    model = open_model(adapter.base, options);
    attach_adapter(model, adapter);
    model.path = path;
    if (holds_tokenizer(path)) model.tokenizer_directory = path;
  } else if (is_directory(path)) {
    model = open_huggingface(path);
  } else if (begins_with(path, "GGUF")) {
    model = open_gguf(path, options);
  } else if (begins_with(path, kZipMagic)) {
    model = open_torch(path, options);
  } else if (begins_with(path, kLlmcMagic)) {
    model = open_llmc(path);
  } else {
    throw CheckpointError(
        "{}: is no model file that can be read here; a Hugging Face directory, a .gguf file, a .pt "
        "file of torch.save and a model .bin of llm.c are",
        path);
  }
  if (!options.tokenizer.empty()) model.tokenizer_directory = options.tokenizer;
  return model;
}

}  // namespace train_sft
