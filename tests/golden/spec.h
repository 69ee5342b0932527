// The executable specification of the model: a plain GPT on autograd, one document at a time, dense
// attention with an explicit mask. Nothing here is shared with the engine but the names of the
// parameters and the batch; it is written to be read beside modeling_gpt2.py and modeling_llama.py.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "train_sft/config/model_config.h"
#include "train_sft/data/batch.h"
#include "train_sft/model/parameters.h"

namespace train_sft::spec {

// Factors (0 or 1/(1-p)) of each place where dropout acts, [N, C] each; empty: no dropout.
struct DropoutMasks {
  at::Tensor embedding;
  std::vector<at::Tensor> attention;  // [layer]
  std::vector<at::Tensor> ffn;        // [layer]
  bool empty() const { return !embedding.defined(); }
};

class Model {
 public:
  enum class Source { master, compute };
  // Copies the masters (or their rounded compute copies); every tensor is a leaf that requires a
  // gradient.
  Model(const Parameters& parameters, at::ScalarType dtype, Source source = Source::master);

  at::Tensor logits(const Batch& batch, const DropoutMasks& masks = {}) const;  // [N, V]
  // Σ weight × −log p(target) over the learned targets.
  at::Tensor loss(const Batch& batch, const DropoutMasks& masks = {}) const;

  at::Tensor parameter(const std::string& name) const { return parameters_.at(name); }
  void zero_gradients();

 private:
  at::Tensor gpt2(const at::Tensor& tokens, const at::Tensor& positions,
                  const DropoutMasks& masks) const;
  at::Tensor llama(const at::Tensor& tokens, const at::Tensor& positions,
                   const DropoutMasks& masks) const;
  at::Tensor rope(const at::Tensor& x, const at::Tensor& positions) const;
  at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;
  at::Tensor rms_norm(const at::Tensor& x, const std::string& name) const;
  at::Tensor layer_norm(const at::Tensor& x, const std::string& name) const;

  ModelConfig config_;
  std::map<std::string, at::Tensor> parameters_;
};

}  // namespace train_sft::spec
