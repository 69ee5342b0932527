#include "interop/gguf_names.h"

#include <array>
#include <string_view>

#include "interop/source_parts.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

struct Pair {
  std::string_view ours, theirs;
};

constexpr std::array<Pair, 6> kTop = {{
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {"transformer.wte", "token_embd"},
    {"transformer.wpe", "position_embd"},
    {"transformer.ln_f", "output_norm"},
}};

constexpr std::array<Pair, 17> kLayer = {{
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"ln_1", "attn_norm"},
    {"attn.c_attn", "attn_qkv"},
    {"attn.c_proj", "attn_output"},
    {"ln_2", "ffn_norm"},
    {"mlp.c_fc", "ffn_up"},
    {"mlp.c_proj", "ffn_down"},
}};

template <size_t N>
std::string_view translated(const std::array<Pair, N>& table, std::string_view name) {
  for (const Pair& pair : table)
    if (pair.ours == name) return pair.theirs;
  return {};
}

}  // namespace

std::string gguf_architecture(const ModelConfig& config) {
  if (config.family == Family::gpt2) return "gpt2";
  return config.qk_norm ? "qwen3" : config.qkv_bias ? "qwen2" : "llama";
}

std::string gguf_name(const std::string& parameter) {
  const std::string_view name = parameter;
  const size_t dot = name.rfind('.');
  TRAIN_SFT_CHECK(dot != name.npos, "parameter '{}'", parameter);
  const std::string_view kind = name.substr(dot);  // ".weight", ".bias"
  std::string_view stem = name.substr(0, dot);
  for (const std::string_view prefix : {"model.layers.", "transformer.h."}) {
    if (!stem.starts_with(prefix)) continue;
    stem.remove_prefix(prefix.size());
    const size_t end = stem.find('.');
    const std::string_view theirs = translated(kLayer, stem.substr(end + 1));
    TRAIN_SFT_CHECK(end != stem.npos && !theirs.empty(), "parameter '{}'", parameter);
    return fmt::format("blk.{}.{}{}", stem.substr(0, end), theirs, kind);
  }
  const std::string_view theirs = translated(kTop, stem);
  TRAIN_SFT_CHECK(!theirs.empty(), "parameter '{}'", parameter);
  return fmt::format("{}{}", theirs, kind);
}

GgufOrder gguf_order(const ModelConfig& config, const std::string& parameter) {
  if (config.family == Family::gpt2) {
    return is_conv1d_weight(parameter) ? GgufOrder::transposed : GgufOrder::same;
  }
  if (gguf_architecture(config) != "llama") return GgufOrder::same;
  if (parameter.find(".q_proj.") != parameter.npos) return GgufOrder::permuted_q;
  if (parameter.find(".k_proj.") != parameter.npos) return GgufOrder::permuted_k;
  return GgufOrder::same;
}

}  // namespace train_sft
