// Text from the model during training, for people to watch it learn: samples.jsonl, log,
// TensorBoard.
#pragma once

#include <string>
#include <vector>

#include "train/run_setup.h"

namespace train_sft {

// The prompts of sample_prompts; without any, the beginning of the first validation (else training)
// example. Ids as chat or generate would feed them.
std::vector<std::vector<int32_t>> sample_prompts(const Run& run);

void write_samples(Run& run, const std::vector<std::vector<int32_t>>& prompts);

}  // namespace train_sft
