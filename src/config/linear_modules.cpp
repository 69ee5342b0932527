#include <fmt/format.h>

#include "config/trained_parameters.h"
#include "train_sft/config/parameter_layout.h"

namespace train_sft {

std::vector<std::vector<LinearModule>> linear_modules(const ModelConfig& config, int64_t layer) {
  const int64_t C = config.n_embd, F = config.ffn();
  const int64_t Q = config.attention_width(), KV = config.kv_heads() * config.head_dim();
  if (config.family == Family::gpt2) {
    const std::string h = fmt::format("transformer.h.{}.", layer);
    return {{{h + "attn.c_attn", C, 3 * C, 0}},
            {{h + "attn.c_proj", C, C, 0}},
            {{h + "mlp.c_fc", C, F, 0}},
            {{h + "mlp.c_proj", F, C, 0}}};
  }
  const std::string h = fmt::format("model.layers.{}.", layer);
  const std::string attention = h + "self_attn.";
  return {{{attention + "q_proj", C, Q, 0},
           {attention + "k_proj", C, KV, Q},
           {attention + "v_proj", C, KV, Q + KV}},
          {{attention + "o_proj", Q, C, 0}},
          {{h + "mlp.gate_proj", C, F, 0}, {h + "mlp.up_proj", C, F, F}},
          {{h + "mlp.down_proj", F, C, 0}}};
}

std::vector<LowRanks> low_ranks(const ModelConfig& config, const Training& training) {
  std::vector<LowRanks> layers(static_cast<size_t>(config.n_layer));
  if (!training.adapts()) return layers;
  for (int64_t l = 0; l < config.n_layer; ++l) {
    LowRanks& layer = layers[static_cast<size_t>(l)];
    int64_t* const columns[] = {&layer.qkv, &layer.proj, &layer.up, &layer.down};
    const auto groups = linear_modules(config, l);
    for (size_t g = 0; g < groups.size(); ++g)
      for (const LinearModule& module : groups[g])
        if (is_lora_target(module.name, training)) *columns[g] += training.lora_rank;
  }
  return layers;
}

std::string lora_a_name(const std::string& module) {
  return "base_model.model." + module + ".lora_A.weight";
}

std::string lora_b_name(const std::string& module) {
  return "base_model.model." + module + ".lora_B.weight";
}

}  // namespace train_sft
