#include "config/trained_parameters.h"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <set>

#include "train_sft/base/error.h"
#include "train_sft/config/train_config.h"

namespace train_sft {
namespace {

constexpr int64_t kAlignment = 32;

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

// PEFT's rule: the whole name, or its end after a dot.
bool answers_to(const std::string& module, const std::string& target) {
  return module == target || module.ends_with("." + target);
}

std::vector<bool> frozen_by_pattern(const ParameterLayout& layout,
                                    const std::vector<std::string>& patterns) {
  std::vector<bool> frozen(layout.parameters.size());
  for (const std::string& pattern : patterns) {
    bool any = false;
    for (size_t i = 0; i < layout.parameters.size(); ++i) {
      if (!matches(pattern, layout.parameters[i].name)) continue;
      frozen[i] = any = true;
    }
    if (!any)
      throw UsageError(
          "freeze: '{}' matches none of the model's parameters, which have names like {}; * stands "
          "for any text",
          pattern, layout.parameters[layout.parameters.size() / 2].name);
  }
  return frozen;
}

}  // namespace

std::vector<std::string> split_at_commas(const std::vector<std::string>& texts) {
  std::vector<std::string> parts;
  for (const std::string& text : texts)
    for (size_t at = 0; at <= text.size();) {
      const size_t comma = std::min(text.find(',', at), text.size());
      if (comma > at) parts.push_back(text.substr(at, comma - at));
      at = comma + 1;
    }
  return parts;
}

Training training_of(const TrainConfig& config) {
  Training training;
  training.lora_rank = config.lora_rank;
  training.lora_alpha = config.lora_alpha.value_or(2.0 * static_cast<double>(config.lora_rank));
  training.lora_targets = split_at_commas(config.lora_targets);
  training.freeze = split_at_commas(config.freeze);
  return training;
}

int64_t aligned_offset(int64_t elements) {
  return (elements + kAlignment - 1) / kAlignment * kAlignment;
}

bool is_lora_target(const std::string& module, const Training& training) {
  const auto& targets = training.lora_targets;
  return targets.empty() || std::any_of(targets.begin(), targets.end(), [&](const auto& target) {
           return answers_to(module, target);
         });
}

void check_lora_targets(const ModelConfig& config, const Training& training) {
  for (const std::string& target : training.lora_targets) {
    std::set<std::string> ends;
    bool found = false;
    for (int64_t l = 0; l < config.n_layer; ++l)
      for (const auto& modules : linear_modules(config, l))
        for (const LinearModule& module : modules) {
          found = found || answers_to(module.name, target);
          ends.insert(module.name.substr(module.name.rfind('.') + 1));
        }
    if (!found)
      throw UsageError("lora_targets: '{}' is no linear layer of this model; it has {}", target,
                       fmt::join(ends, ", "));
  }
}

void place_trained(ParameterLayout& layout, const Training& training) {
  const std::vector<bool> frozen = frozen_by_pattern(layout, training.freeze);
  layout.trained_total = 0;
  for (size_t i = 0; i < layout.parameters.size(); ++i) {
    ParameterInfo& info = layout.parameters[i];
    const ParameterInfo* before = i > 0 ? &layout.parameters[i - 1] : nullptr;
    const bool same_group = before != nullptr && before->group == info.group;
    const bool trained = training.adapts() ? info.adapter : !frozen[i];
    if (same_group && trained != before->trained())
      throw UsageError("freeze: {} and {} are one matrix here; freeze both or neither",
                       before->name, info.name);
    if (!trained) continue;
    if (!same_group) layout.trained_total = aligned_offset(layout.trained_total);
    info.trained_offset = layout.trained_total;
    layout.trained_total += info.numel;
  }
  layout.trained_total = aligned_offset(layout.trained_total);
  if (layout.trained_total == 0) throw UsageError("freeze: nothing is left to train");
}

}  // namespace train_sft
