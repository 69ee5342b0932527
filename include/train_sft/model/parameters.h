// A model's parameters as flat buffers. Names, shapes and layouts are those of transformers
// (GPT-2: Conv1D matrices [in, out]; Llama: Linear matrices [out, in]), so a checkpoint is the
// buffer cut at the names. q, k, v and gate, up of a Llama layer stand one after another and serve
// as one matrix each.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train_sft/config/model_config.h"

namespace train_sft {

struct ParameterInfo {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
  int64_t offset = 0;  // elements from the start of the flat buffer
  int64_t numel = 0;
  bool decay = false;  // matrices decay; biases, norms do not
  int64_t layer = -1;  // -1: embeddings, final norm, head
};

// In buffer order: embeddings, layers, final norm, untied head. A parameter (or a group that serves
// as one matrix) begins at a multiple of 64 bytes; the gaps are zero and stay zero.
struct ParameterLayout {
  std::vector<ParameterInfo> parameters;
  int64_t total = 0;      // elements of the flat buffer, gaps included
  int64_t count() const;  // parameters proper, tied weights once
};
ParameterLayout parameter_layout(const ModelConfig& config);

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
