#include "train_sft/model/parameters.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "train_sft/base/error.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/zero.h"

namespace train_sft {
namespace {

const ParameterInfo* find_or_null(const ParameterLayout& layout, const std::string& name) {
  for (const ParameterInfo& info : layout.parameters)
    if (info.name == name) return &info;
  return nullptr;
}

const ParameterInfo& find(const ParameterLayout& layout, const std::string& name) {
  const ParameterInfo* info = find_or_null(layout, name);
  if (info == nullptr) throw InternalError("the model has no parameter '{}'", name);
  return *info;
}

at::Tensor view(const at::Tensor& flat, int64_t offset, const ParameterInfo& info) {
  TRAIN_SFT_CHECK(flat.defined(), "these parameters were made without gradients");
  TRAIN_SFT_CHECK(offset >= 0, "'{}' is frozen", info.name);
  return flat.narrow(0, offset, info.numel).view(info.shape);
}

// The rows of first … last, whose first stands at `offset` of flat.
at::Tensor span(const ParameterLayout& layout, const at::Tensor& flat, int64_t offset,
                const ParameterInfo& first, const ParameterInfo& last) {
  TRAIN_SFT_CHECK(flat.defined(), "these parameters were made without gradients");
  TRAIN_SFT_CHECK(offset >= 0, "'{}' is frozen", first.name);
  TRAIN_SFT_CHECK(first.group == last.group && first.offset <= last.offset, "{} … {}", first.name,
                  last.name);
  std::vector<int64_t> shape = first.shape;
  shape[0] = 0;
  int64_t numel = 0;
  for (const ParameterInfo& info : layout.parameters) {
    if (info.offset < first.offset || info.offset > last.offset) continue;
    TRAIN_SFT_CHECK(info.offset == first.offset + numel, "{} … {} are not one matrix", first.name,
                    last.name);
    shape[0] += info.shape[0];
    numel += info.numel;
  }
  return flat.narrow(0, offset, numel).view(shape);
}

}  // namespace

Parameters::Parameters(const ModelConfig& config, at::ScalarType dtype, at::ScalarType compute,
                       bool with_gradients, const Training& training, c10::Device device,
                       std::optional<TrainedPart> own_masters)
    : config_(config),
      training_(training),
      layout_(parameter_layout(config, training)),
      own_masters_(own_masters) {
  TRAIN_SFT_CHECK(!own_masters || compute != dtype,
                  "masters that are computed with are not shared");
  TRAIN_SFT_CHECK(dtype == at::kFloat || dtype == at::kDouble, "masters are float or double");
  TRAIN_SFT_CHECK(compute == dtype || (dtype == at::kFloat && compute == at::kBFloat16),
                  "compute in the masters' dtype, or in bfloat16 with float masters");
  const auto zeros = [&](int64_t count, at::ScalarType type) {
    if (device.is_cpu()) return ops::zeros(count, type);
    return at::zeros({count}, at::TensorOptions().dtype(type).device(device));
  };
  compute_ = zeros(layout_.total, compute);
  const TrainedPart masters = own_masters.value_or(TrainedPart{0, layout_.trained_total});
  master_ = compute == dtype ? compute_ : zeros(masters.end - masters.first, dtype);
  if (with_gradients) gradients_ = zeros(layout_.trained_total, dtype);
}

bool Parameters::has_master(const ParameterInfo& info) const {
  if (!masters_apart()) return true;
  if (!info.trained() || !own_masters_) return info.trained();
  return own_masters_->first <= info.trained_offset && info.trained_offset < own_masters_->end;
}

at::Tensor Parameters::master(const std::string& name) const {
  const ParameterInfo& info = find(layout_, name);
  TRAIN_SFT_CHECK(has_master(info), "'{}' has no master here", name);
  return view(master_, master_offset(info), info);
}
at::Tensor Parameters::compute(const std::string& name) const {
  const ParameterInfo& info = find(layout_, name);
  return view(compute_, info.offset, info);
}
at::Tensor Parameters::gradient(const std::string& name) const {
  const ParameterInfo& info = find(layout_, name);
  return view(gradients_, info.trained_offset, info);
}
at::Tensor Parameters::stored(const ParameterInfo& info) const {
  return has_master(info) ? view(master_, master_offset(info), info)
                          : view(compute_, info.offset, info);
}
bool Parameters::has(const std::string& name) const {
  return find_or_null(layout_, name) != nullptr;
}
bool Parameters::trains(const std::string& name) const {
  return has_gradients() && find(layout_, name).trained();
}
at::Tensor Parameters::compute_span(const std::string& first, const std::string& last) const {
  const ParameterInfo& info = find(layout_, first);
  return span(layout_, compute_, info.offset, info, find(layout_, last));
}
at::Tensor Parameters::gradient_span(const std::string& first, const std::string& last) const {
  const ParameterInfo& info = find(layout_, first);
  return span(layout_, gradients_, info.trained_offset, info, find(layout_, last));
}

void Parameters::zero_gradients() {
  TRAIN_SFT_CHECK(gradients_.defined(), "these parameters were made without gradients");
  ops::zero(gradients_);
}

void Parameters::drop_gradients() {
  TRAIN_SFT_CHECK(gradients_.defined(), "these parameters were made without gradients");
  if (!gradients_.is_cpu()) return zero_gradients();
  const profile::Scope scope("zero gradients");
  auto* begin = static_cast<char*>(gradients_.data_ptr());
  const MemoryBlock pages = whole_pages(begin, gradients_.nbytes());
  if (!give_back(pages)) return zero_gradients();
  char* const end = pages.begin + pages.bytes;
  std::fill(begin, pages.begin, char{0});
  std::fill(end, begin + gradients_.nbytes(), char{0});
}

void Parameters::copy_from(const Parameters& other) {
  compute_.copy_(other.compute_);
  if (masters_apart()) master_.copy_(other.master_);
}

Parameters Parameters::host_copy() const {
  Parameters host(config_, master_.scalar_type(), compute_.scalar_type(), false, training_,
                  c10::kCPU, own_masters_);
  host.copy_from(*this);
  return host;
}

void Parameters::refresh_compute() {
  if (!masters_apart()) return;
  if (master_.numel() == layout_.total) {
    compute_.copy_(master_);
    return;
  }
  for (const ParameterInfo& info : layout_.parameters)
    if (has_master(info))
      view(compute_, info.offset, info).copy_(view(master_, master_offset(info), info));
}

}  // namespace train_sft
