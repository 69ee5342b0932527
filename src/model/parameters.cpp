#include "train_sft/model/parameters.h"

#include <ATen/ops/zeros.h>

#include "train_sft/base/error.h"
#include "train_sft/ops/zero.h"

namespace train_sft {
namespace {

const ParameterInfo& find(const ParameterLayout& layout, const std::string& name) {
  for (const ParameterInfo& info : layout.parameters)
    if (info.name == name) return info;
  throw InternalError("the model has no parameter '{}'", name);
}

}  // namespace

Parameters::Parameters(const ModelConfig& config, at::ScalarType dtype, at::ScalarType compute,
                       bool with_gradients)
    : config_(config), layout_(parameter_layout(config)) {
  TRAIN_SFT_CHECK(dtype == at::kFloat || dtype == at::kDouble, "masters are float or double");
  TRAIN_SFT_CHECK(compute == dtype || (dtype == at::kFloat && compute == at::kBFloat16),
                  "compute in the masters' dtype, or in bfloat16 with float masters");
  master_ = at::zeros({layout_.total}, dtype);
  compute_ = compute == dtype ? master_ : at::zeros({layout_.total}, compute);
  if (with_gradients) gradients_ = at::zeros({layout_.total}, dtype);
}

at::Tensor Parameters::view(const at::Tensor& flat, const ParameterInfo& info) const {
  TRAIN_SFT_CHECK(flat.defined(), "these parameters were made without gradients");
  return flat.narrow(0, info.offset, info.numel).view(info.shape);
}

at::Tensor Parameters::span(const at::Tensor& flat, const std::string& first,
                            const std::string& last) const {
  const ParameterInfo& a = find(layout_, first);
  const ParameterInfo& b = find(layout_, last);
  TRAIN_SFT_CHECK(flat.defined(), "these parameters were made without gradients");
  TRAIN_SFT_CHECK(a.shape.size() == b.shape.size() && a.offset <= b.offset, "{} … {}", first, last);
  int64_t row = 1;
  for (size_t d = 1; d < a.shape.size(); ++d) row *= a.shape[d];
  int64_t rows = 0, end = a.offset;
  for (const ParameterInfo& info : layout_.parameters) {
    if (info.offset < a.offset || info.offset > b.offset) continue;
    TRAIN_SFT_CHECK(info.offset == end && info.numel == info.shape[0] * row,
                    "{} … {} are not one matrix", first, last);
    rows += info.shape[0];
    end = info.offset + info.numel;
  }
  std::vector<int64_t> shape = a.shape;
  shape[0] = rows;
  return flat.narrow(0, a.offset, rows * row).view(shape);
}

at::Tensor Parameters::master(const std::string& name) const {
  return view(master_, find(layout_, name));
}
at::Tensor Parameters::compute(const std::string& name) const {
  return view(compute_, find(layout_, name));
}
at::Tensor Parameters::gradient(const std::string& name) const {
  return view(gradients_, find(layout_, name));
}
at::Tensor Parameters::compute_span(const std::string& first, const std::string& last) const {
  return span(compute_, first, last);
}
at::Tensor Parameters::gradient_span(const std::string& first, const std::string& last) const {
  return span(gradients_, first, last);
}

void Parameters::zero_gradients() {
  TRAIN_SFT_CHECK(gradients_.defined(), "these parameters were made without gradients");
  ops::zero(gradients_);
}

void Parameters::refresh_compute() {
  if (!compute_.is_same(master_)) compute_.copy_(master_);
}

}  // namespace train_sft
