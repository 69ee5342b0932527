#include "train_sft/config/fp8_settings.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "config/trained_parameters.h"
#include "train_sft/base/error.h"
#include "train_sft/config/parameter_layout.h"

namespace train_sft {
namespace {

const std::map<std::string, BlockLinear, std::less<>> kKinds = {{"qkv", BlockLinear::qkv},
                                                                {"proj", BlockLinear::proj},
                                                                {"up", BlockLinear::up},
                                                                {"down", BlockLinear::down}};

int64_t block_number(const std::string& word, int64_t n_layer) {
  int64_t number = -1;
  const char* end = word.data() + word.size();
  const auto parsed = std::from_chars(word.data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end || number < 0)
    throw UsageError(
        "fp8_bf16: '{}' is not valid, expected first, last, a block's number from 0, a kind of "
        "linear layer (qkv, proj, up, down), or none",
        word);
  if (n_layer > 0 && number >= n_layer)
    throw UsageError("fp8_bf16: there is no block {}; the model has {}, numbered from 0", number,
                     n_layer);
  return number;
}

}  // namespace

bool Bf16Linears::has(int64_t block, int64_t n_layer, BlockLinear kind) const {
  return (first && block == 0) || (last && block + 1 == n_layer) ||
         std::find(blocks.begin(), blocks.end(), block) != blocks.end() ||
         std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

Bf16Linears bf16_linears(const TrainConfig& config, int64_t n_layer) {
  if (config.fp8_bf16.empty()) return {};
  const std::vector<std::string> words = split_at_commas(config.fp8_bf16);
  Bf16Linears kept;
  kept.first = kept.last = false;
  bool none = false;
  for (const std::string& word : words) {
    if (word == "none")
      none = true;
    else if (word == "first")
      kept.first = true;
    else if (word == "last")
      kept.last = true;
    else if (const auto kind = kKinds.find(word); kind != kKinds.end())
      kept.kinds.push_back(kind->second);
    else
      kept.blocks.push_back(block_number(word, n_layer));
  }
  if (words.empty() || (none && words.size() > 1))
    throw UsageError(
        "fp8_bf16: '{}' is not valid, expected what stays in bfloat16, or none by itself",
        fmt::join(words, ","));
  return kept;
}

std::vector<Fp8Linear> fp8_linears(const ModelConfig& model, const Bf16Linears& bf16) {
  constexpr int64_t kRow = 16;
  constexpr BlockLinear kinds[] = {BlockLinear::qkv, BlockLinear::proj, BlockLinear::up,
                                   BlockLinear::down};  // as linear_modules() has them
  std::vector<Fp8Linear> linears;
  for (int64_t block = 0; block < model.n_layer; ++block) {
    const auto groups = linear_modules(model, block);
    for (size_t i = 0; i < groups.size(); ++i) {
      Fp8Linear linear{block, kinds[i], groups[i].front().in, 0};
      for (const LinearModule& module : groups[i]) linear.out += module.out;
      const bool fits = linear.in % kRow == 0 && linear.out % kRow == 0;
      if (fits && !bf16.has(block, model.n_layer, linear.kind)) linears.push_back(linear);
    }
  }
  return linears;
}

int64_t fp8_history(const TrainConfig& config) {
  return config.fp8_scaling == "current" ? 1 : config.fp8_history;
}

void validate_fp8(const Settings& settings) {
  const TrainConfig& config = settings.config;
  bf16_linears(config, 0);
  // A resume has the checkpoint's precision unless it says another.
  const bool is_fp8 =
      config.precision == "fp8" || (!settings.given("precision") && !config.resume.empty());
  for (const char* name : kFp8Options)
    if (settings.given(name) && !is_fp8)
      throw UsageError("{}: precision is {}; add --precision fp8, or leave it out", name,
                       config.precision);
  if (config.fp8_scaling == "current" && settings.given("fp8_history") &&
      settings.level("fp8_history") >= settings.level("fp8_scaling"))
    throw UsageError(
        "fp8_history: {} steps contradict fp8_scaling current, whose scales are of the moment; "
        "give one",
        config.fp8_history);
}

}  // namespace train_sft
