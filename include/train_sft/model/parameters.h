// A model's parameters as flat buffers, laid out as config/parameter_layout.h says: a checkpoint is
// the buffer cut at the names.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train_sft/config/parameter_layout.h"

namespace train_sft {

// A part of what is trained: elements [first, end) of a flat buffer of trained_total.
struct TrainedPart {
  int64_t first = 0, end = 0;
};

class Parameters {
 public:
  // dtype of masters and gradients: float, or double in tests. compute: float, double or bfloat16;
  // when it equals dtype the compute buffer is the master buffer. What is frozen has neither
  // gradient nor, in bfloat16, a master. own_masters, beside bfloat16: other processes keep the
  // masters of the rest, cut between whole parameters.
  Parameters(const ModelConfig& config, at::ScalarType dtype, at::ScalarType compute,
             bool with_gradients = true, const Training& training = {},
             c10::Device device = c10::kCPU, std::optional<TrainedPart> own_masters = {});

  const ModelConfig& config() const { return config_; }
  const ParameterLayout& layout() const { return layout_; }
  const Training& training() const { return training_; }
  // [total]; beside bfloat16 [trained_total], or of that the part that is this process's
  at::Tensor& master() { return master_; }
  at::Tensor& compute() { return compute_; }      // [total]
  at::Tensor& gradients() { return gradients_; }  // [trained_total], sums over micro-batches
  bool has_gradients() const { return gradients_.defined(); }
  bool masters_apart() const { return !compute_.is_same(master_); }
  bool masters_shared() const { return own_masters_.has_value(); }
  // Whether a parameter has a master in this process, and where it stands in master().
  bool has_master(const ParameterInfo& info) const;
  int64_t master_offset(const ParameterInfo& info) const {
    if (!masters_apart()) return info.offset;
    return info.trained_offset - (own_masters_ ? own_masters_->first : 0);
  }
  const at::Tensor& master() const { return master_; }
  const at::Tensor& compute() const { return compute_; }

  // Named views (no copies). Throws InternalError for an unknown name, or one that is frozen where
  // only what is trained has a place.
  at::Tensor master(const std::string& name) const;
  at::Tensor compute(const std::string& name) const;
  at::Tensor gradient(const std::string& name) const;
  // What a parameter is loaded into: its master, or the compute copy where it has none.
  at::Tensor stored(const ParameterInfo& info) const;
  bool has(const std::string& name) const;
  bool trains(const std::string& name) const;  // and has a gradient
  // The rows of several neighbouring parameters as one matrix: first … last.
  at::Tensor compute_span(const std::string& first, const std::string& last) const;
  at::Tensor gradient_span(const std::string& first, const std::string& last) const;

  void zero_gradients();
  // The same by giving their memory back to the system, until something is added to them.
  void drop_gradients();
  // The values of a model of the same layout and dtypes, on any device.
  void copy_from(const Parameters& other);
  Parameters host_copy() const;  // on the CPU, without gradients
  c10::Device device() const { return compute_.device(); }
  void refresh_compute();  // compute = master, rounded; nothing to do when they alias

 private:
  ModelConfig config_;
  Training training_;
  ParameterLayout layout_;
  std::optional<TrainedPart> own_masters_;
  at::Tensor master_, compute_, gradients_;
};

// GPT-2's initialisation: normal(0, 0.02), residual projections divided by sqrt(2 n_layer), zero
// biases, unit norms. A pure function of (seed, parameter name, element): the same on any machine.
// Adapters are left to initialise_adapters().
void initialise(Parameters& parameters, uint64_t seed);

// LoRA's start, as PEFT's: A uniform in ±1/√in (Kaiming with a = √5), B zero, so that the adapted
// model is the model. The same rule of purity.
void initialise_adapters(Parameters& parameters, uint64_t seed);

}  // namespace train_sft
