#include <ATen/ops/zeros.h>

#include <cmath>
#include <string_view>

#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"
#include "train_sft/model/parameters.h"
#include "train_sft/ops/normal.h"

namespace train_sft {
namespace {

constexpr double kDeviation = 0.02;

// The projections that write to the residual stream: scaled down so that its variance does not grow
// with depth (GPT-2, section 2.3).
bool writes_residual(std::string_view name) {
  return name.ends_with("c_proj.weight") || name.ends_with("o_proj.weight") ||
         name.ends_with("down_proj.weight");
}

template <typename T>
void fill_uniform(at::Tensor& tensor, double bound, const CounterRng& rng) {
  T* out = tensor.mutable_data_ptr<T>();
  for (int64_t i = 0; i < tensor.numel(); ++i)
    out[i] = static_cast<T>(bound * (2 * rng.uniform(static_cast<uint64_t>(i)) - 1));
}

}  // namespace

void initialise_adapters(Parameters& parameters, uint64_t seed) {
  if (!parameters.device().is_cpu()) {
    Parameters host = parameters.host_copy();
    initialise_adapters(host, seed);
    return parameters.copy_from(host);
  }
  for (const ParameterInfo& info : parameters.layout().parameters) {
    if (!info.adapter) continue;
    at::Tensor tensor = parameters.master(info.name);
    if (info.name.ends_with(".lora_B.weight")) {
      tensor.zero_();
      continue;
    }
    const double bound = 1.0 / std::sqrt(static_cast<double>(info.shape[1]));
    const CounterRng rng(seed, hash_string(info.name));
    if (tensor.scalar_type() == at::kDouble)
      fill_uniform<double>(tensor, bound, rng);
    else
      fill_uniform<float>(tensor, bound, rng);
  }
  parameters.refresh_compute();
}

void initialise(Parameters& parameters, uint64_t seed) {
  if (!parameters.device().is_cpu()) {
    Parameters host = parameters.host_copy();
    initialise(host, seed);
    return parameters.copy_from(host);
  }
  const ModelConfig& config = parameters.config();
  const double residual = kDeviation / std::sqrt(2.0 * static_cast<double>(config.n_layer));
  for (const ParameterInfo& info : parameters.layout().parameters) {
    if (info.adapter) continue;
    at::Tensor stored = parameters.stored(info);
    at::Tensor tensor = stored.scalar_type() == at::kBFloat16 ? at::zeros(info.shape) : stored;
    if (info.shape.size() >= 2) {
      const double deviation = writes_residual(info.name) ? residual : kDeviation;
      const CounterRng rng(seed, hash_string(info.name));
      ops::normal(tensor, deviation, rng);
    } else {
      tensor.fill_(info.name.ends_with(".weight") ? 1.0 : 0.0);  // a norm's gain, a bias
    }
    if (!tensor.is_same(stored)) stored.copy_(tensor);  // frozen, in bfloat16
  }
  parameters.refresh_compute();
}

}  // namespace train_sft
