// The executable specification of the model: a plain GPT on autograd, one document at a time, dense
// attention with an explicit mask. Nothing here is shared with the engine but the names of the
// parameters and the batch; it is written to be read beside modeling_gpt2.py and modeling_llama.py.
#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <vector>

#include "train_sft/config/model_config.h"
#include "train_sft/data/batch.h"
#include "train_sft/model/parameters.h"

namespace train_sft::spec {

// Factors (0 or 1/(1-p)) of each place where dropout acts, [N, C] each; empty: no dropout.
struct DropoutMasks {
  torch::Tensor embedding;
  std::vector<torch::Tensor> attention;  // [layer]
  std::vector<torch::Tensor> ffn;        // [layer]
  bool empty() const { return !embedding.defined(); }
};

class Model {
 public:
  enum class Source { master, compute };
  // Copies the masters (or their rounded compute copies); every tensor is a leaf that requires a
  // gradient.
  Model(const Parameters& parameters, torch::ScalarType dtype, Source source = Source::master);

  torch::Tensor logits(const Batch& batch, const DropoutMasks& masks = {}) const;  // [N, V]
  // Σ weight × −log p(target) over the learned targets.
  torch::Tensor loss(const Batch& batch, const DropoutMasks& masks = {}) const;

  torch::Tensor parameter(const std::string& name) const { return parameters_.at(name); }
  void zero_gradients();

 private:
  torch::Tensor gpt2(const torch::Tensor& tokens, const torch::Tensor& positions,
                     const DropoutMasks& masks) const;
  torch::Tensor llama(const torch::Tensor& tokens, const torch::Tensor& positions,
                      const DropoutMasks& masks) const;
  torch::Tensor rope(const torch::Tensor& x, const torch::Tensor& positions) const;
  torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k,
                          const torch::Tensor& v) const;
  torch::Tensor rms_norm(const torch::Tensor& x, const std::string& name) const;
  torch::Tensor layer_norm(const torch::Tensor& x, const std::string& name) const;

  ModelConfig config_;
  std::map<std::string, torch::Tensor> parameters_;
};

}  // namespace train_sft::spec
