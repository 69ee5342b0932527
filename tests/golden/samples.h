// Models, weights and batches that the golden tests share: small, uneven, fully deterministic.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "train_sft/config/model_config.h"
#include "train_sft/data/batch.h"
#include "train_sft/model/parameters.h"

namespace train_sft::samples {

struct NamedConfig {
  std::string name;
  ModelConfig config;
  friend std::ostream& operator<<(std::ostream& out, const NamedConfig& self) {
    return out << self.name;
  }
};

// Both families, tied and untied, every kind of grouped queries, with Qwen2's biases.
std::vector<NamedConfig> configs();

// Every parameter random and of a size that makes each part of the model matter: with the usual
// initialisation biases are zero, gains one and attention nearly uniform.
void randomise(Parameters& parameters, uint64_t seed);

struct BatchOptions {
  std::vector<int> lengths = {5, 1, 17, 9, 2};  // of the documents
  bool weights = false;                         // one a learned target, or all 1
  int learned_of_ten = 7;
  uint64_t seed = 1;
  uint64_t first_example = 100;
};
Batch batch(const ModelConfig& config, const BatchOptions& options = {});

// Documents [first, last) of a batch, as a batch.
Batch documents(const Batch& batch, int64_t first, int64_t last);
// The batch with its documents in another order.
Batch reordered(const Batch& batch, const std::vector<int64_t>& order);
// The same tokens, only document d's targets learned.
Batch only_learning(const Batch& batch, int64_t d);

}  // namespace train_sft::samples
