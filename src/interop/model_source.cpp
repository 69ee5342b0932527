#include "train_sft/interop/model_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "interop/map_file.h"
#include "interop/source_parts.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/config/parameter_layout.h"

namespace train_sft {
namespace {

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

void transpose(std::span<const float> from, int64_t rows, int64_t columns, std::span<float> out) {
  // In squares: both sides then stay in the cache.
  constexpr int64_t kSquare = 32;
  for (int64_t r0 = 0; r0 < rows; r0 += kSquare)
    for (int64_t c0 = 0; c0 < columns; c0 += kSquare)
      for (int64_t r = r0; r < std::min(rows, r0 + kSquare); ++r)
        for (int64_t c = c0; c < std::min(columns, c0 + kSquare); ++c)
          out[static_cast<size_t>(c * rows + r)] = from[static_cast<size_t>(r * columns + c)];
}

// Row 2i + half of a head becomes row half * D/2 + i.
void unpermute(std::span<const float> from, int64_t heads, int64_t rows, int64_t columns,
               std::span<float> out) {
  const int64_t head = rows / heads;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t within = row % head;
    const int64_t source = row - within + within % (head / 2) * 2 + within / (head / 2);
    std::copy_n(from.begin() + source * columns, columns, out.begin() + row * columns);
  }
}

bool begins_with(const std::string& path, std::string_view magic) {
  const auto file = map_model_file(path);
  return file.bytes().size() >= magic.size() &&
         std::string_view(reinterpret_cast<const char*>(file.bytes().data()), magic.size()) ==
             magic;
}

}  // namespace

void match_parameters(ModelSource& model, const std::vector<SourceTensor>& tensors,
                      const std::function<Expected(const std::string& parameter)>& expected,
                      const std::function<bool(const std::string& tensor)>& ignored) {
  std::unordered_map<std::string, const SourceTensor*> by_name;
  for (const SourceTensor& tensor : tensors) by_name.emplace(tensor.name, &tensor);
  std::set<std::string> used;
  for (const ParameterInfo& parameter : parameter_layout(model.config).parameters) {
    const Expected wanted = expected(parameter.name);
    const auto found = by_name.find(wanted.tensor);
    if (found == by_name.end()) {
      if (!wanted.optional)
        throw CheckpointError("{}: tensor '{}' is missing", model.path, wanted.tensor);
      model.parameters[parameter.name] = {{wanted.tensor, {}, {}, {}}, Rearrange::zeros, 0};
      continue;
    }
    check_shape(*found->second, parameter.shape, wanted.rearrange, model.path);
    model.parameters[parameter.name] = {*found->second, wanted.rearrange, wanted.heads};
    used.insert(wanted.tensor);
  }
  for (const SourceTensor& tensor : tensors)
    if (!used.contains(tensor.name) && !ignored(tensor.name))
      throw CheckpointError(
          "{}: tensor '{}' belongs to no parameter of this architecture as it is implemented here",
          model.path, tensor.name);
}

void read_parameter(const ModelSource& model, const std::string& name, std::span<float> out) {
  const auto found = model.parameters.find(name);
  TRAIN_SFT_CHECK(found != model.parameters.end(), "no parameter '{}'", name);
  const ParameterSource& source = found->second;
  const SourceTensor& tensor = source.tensor;
  if (source.rearrange == Rearrange::zeros) return std::fill(out.begin(), out.end(), 0.0f);
  if (source.rearrange == Rearrange::none) return to_floats(tensor.type, tensor.bytes, out);
  std::vector<float> values(out.size());
  to_floats(tensor.type, tensor.bytes, values);
  const int64_t rows = tensor.shape[0];
  const int64_t columns = rows == 0 ? 0 : static_cast<int64_t>(out.size()) / rows;
  if (source.rearrange == Rearrange::transpose)
    transpose(values, rows, columns, out);
  else
    unpermute(values, source.heads, rows, columns, out);
}

ModelSource open_model(const std::string& path, const OpenOptions&) {
  if (!path_exists(path)) throw CheckpointError("{}: there is no such file or directory", path);
  if (is_directory(path)) return open_huggingface(path);
  if (begins_with(path, "GGUF")) return open_gguf(path);
  throw CheckpointError(
      "{}: is no model file that can be read here; a Hugging Face directory and a .gguf file are",
      path);
}

}  // namespace train_sft
