// A model's parameters as flat buffers, laid out as config/parameter_layout.h says: a checkpoint is
// the buffer cut at the names.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train_sft/config/parameter_layout.h"

namespace train_sft {

class Parameters {
 public:
  // dtype of masters and gradients: float, or double in tests. compute: float, double or bfloat16;
  // when it equals dtype the compute buffer is the master buffer.
  Parameters(const ModelConfig& config, at::ScalarType dtype, at::ScalarType compute,
             bool with_gradients = true);

  const ModelConfig& config() const { return config_; }
  const ParameterLayout& layout() const { return layout_; }
  at::Tensor& master() { return master_; }        // [total]
  at::Tensor& compute() { return compute_; }      // [total]
  at::Tensor& gradients() { return gradients_; }  // [total], sums over micro-batches
  bool has_gradients() const { return gradients_.defined(); }
  const at::Tensor& master() const { return master_; }
  const at::Tensor& compute() const { return compute_; }

  // Named views (no copies). Throws InternalError for an unknown name.
  at::Tensor master(const std::string& name) const;
  at::Tensor compute(const std::string& name) const;
  at::Tensor gradient(const std::string& name) const;
  // The rows of several neighbouring parameters as one matrix: first … last.
  at::Tensor compute_span(const std::string& first, const std::string& last) const;
  at::Tensor gradient_span(const std::string& first, const std::string& last) const;

  void zero_gradients();
  void refresh_compute();  // compute = master, rounded; nothing to do when they alias

 private:
  at::Tensor view(const at::Tensor& flat, const ParameterInfo& info) const;
  at::Tensor span(const at::Tensor& flat, const std::string& first, const std::string& last) const;

  ModelConfig config_;
  ParameterLayout layout_;
  at::Tensor master_, compute_, gradients_;
};

// GPT-2's initialisation: normal(0, 0.02), residual projections divided by sqrt(2 n_layer), zero
// biases, unit norms. A pure function of (seed, parameter name, element): the same on any machine.
void initialise(Parameters& parameters, uint64_t seed);

}  // namespace train_sft
