#include <ATen/Parallel.h>

#include <cmath>
#include <string_view>

#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"
#include "train_sft/model/parameters.h"

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
void fill_normal(at::Tensor& tensor, double deviation, const CounterRng& rng) {
  T* out = tensor.mutable_data_ptr<T>();
  at::parallel_for(0, tensor.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      out[i] = static_cast<T>(deviation * rng.normal(static_cast<uint64_t>(i)));
  });
}

}  // namespace

void initialise(Parameters& parameters, uint64_t seed) {
  const ModelConfig& config = parameters.config();
  const double residual = kDeviation / std::sqrt(2.0 * static_cast<double>(config.n_layer));
  parameters.master().zero_();
  for (const ParameterInfo& info : parameters.layout().parameters) {
    at::Tensor tensor = parameters.master(info.name);
    if (info.shape.size() >= 2) {
      const double deviation = writes_residual(info.name) ? residual : kDeviation;
      const CounterRng rng(seed, hash_string(info.name));
      if (tensor.scalar_type() == at::kDouble)
        fill_normal<double>(tensor, deviation, rng);
      else
        fill_normal<float>(tensor, deviation, rng);
    } else if (info.name.ends_with(".weight")) {
      tensor.fill_(1.0);  // a norm's gain
    }
  }
  parameters.refresh_compute();
}

}  // namespace train_sft
