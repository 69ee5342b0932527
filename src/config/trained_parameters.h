// Which parameters of a layout are trained, and where those stand among themselves.
#pragma once

#include <string>
#include <vector>

#include "train_sft/config/parameter_layout.h"

namespace train_sft {

// Where the next group of parameters begins: 64 bytes of bfloat16 and more of wider types, so that
// one layout serves every dtype.
int64_t aligned_offset(int64_t elements);

// "q_proj,v_proj" is a list too: no name has a comma.
std::vector<std::string> split_at_commas(const std::vector<std::string>& texts);

bool is_lora_target(const std::string& module, const Training& training);
// Throws UsageError naming a target that no module of the model answers to.
void check_lora_targets(const ModelConfig& config, const Training& training);

// Fills trained_offset and trained_total. Throws UsageError as parameter_layout() says.
void place_trained(ParameterLayout& layout, const Training& training);

}  // namespace train_sft
