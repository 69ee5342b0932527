#include "train_sft/config/parameter_layout.h"

#include <fmt/format.h>

#include <utility>

#include "config/trained_parameters.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

// Sizes of models may come from foreign files: offsets, in bytes too, must not overflow.
constexpr int64_t kMostParameters = int64_t{1} << 60;

class LayoutBuilder {
 public:
  explicit LayoutBuilder(ParameterLayout& layout) : layout_(layout) {}

  void layer(int64_t index) { layer_ = index; }
  void adapters_from_here() { adapter_ = true; }

  void add(const std::string& name, std::vector<int64_t> shape) {
    begin_group();
    append(name, std::move(shape));
  }

  // Neighbours without gaps, which serve as one matrix of all their rows.
  void add_group(const std::vector<std::pair<std::string, std::vector<int64_t>>>& members) {
    begin_group();
    for (const auto& [name, shape] : members) append(name, shape);
  }

  void finish() { layout_.total = aligned_offset(layout_.total); }

 private:
  void begin_group() {
    finish();
    ++group_;
  }

  void append(const std::string& name, std::vector<int64_t> shape) {
    ParameterInfo info;
    info.name = name;
    info.offset = layout_.total;
    info.numel = 1;
    bool fits = true;
    for (int64_t extent : shape)
      fits = fits && !__builtin_mul_overflow(info.numel, extent, &info.numel);
    info.decay = shape.size() >= 2;
    info.layer = layer_;
    info.group = group_;
    info.adapter = adapter_;
    info.shape = std::move(shape);
    if (!fits || info.numel > kMostParameters - layout_.total)
      throw UsageError("{}: with it the model has more than 2^60 parameters", name);
    layout_.total += info.numel;
    layout_.parameters.push_back(std::move(info));
  }

  ParameterLayout& layout_;
  int64_t layer_ = -1, group_ = 0;
  bool adapter_ = false;
};

void add_gpt2(LayoutBuilder& builder, const ModelConfig& config) {
  const int64_t C = config.n_embd;
  const int64_t F = config.ffn();
  builder.add("transformer.wte.weight", {config.vocab_size, C});
  builder.add("transformer.wpe.weight", {config.block_size, C});
  for (int64_t l = 0; l < config.n_layer; ++l) {
    builder.layer(l);
    const std::string h = fmt::format("transformer.h.{}.", l);
    builder.add(h + "ln_1.weight", {C});
    builder.add(h + "ln_1.bias", {C});
    builder.add(h + "attn.c_attn.weight", {C, 3 * C});
    builder.add(h + "attn.c_attn.bias", {3 * C});
    builder.add(h + "attn.c_proj.weight", {C, C});
    builder.add(h + "attn.c_proj.bias", {C});
    builder.add(h + "ln_2.weight", {C});
    builder.add(h + "ln_2.bias", {C});
    builder.add(h + "mlp.c_fc.weight", {C, F});
    builder.add(h + "mlp.c_fc.bias", {F});
    builder.add(h + "mlp.c_proj.weight", {F, C});
    builder.add(h + "mlp.c_proj.bias", {C});
  }
  builder.layer(-1);
  builder.add("transformer.ln_f.weight", {C});
  builder.add("transformer.ln_f.bias", {C});
}

void add_llama(LayoutBuilder& builder, const ModelConfig& config) {
  const int64_t C = config.n_embd;
  const int64_t F = config.ffn();
  const int64_t Q = config.attention_width(), KV = config.kv_heads() * config.head_dim();
  builder.add("model.embed_tokens.weight", {config.vocab_size, C});
  for (int64_t l = 0; l < config.n_layer; ++l) {
    builder.layer(l);
    const std::string h = fmt::format("model.layers.{}.", l);
    builder.add(h + "input_layernorm.weight", {C});
    const std::string attention = h + "self_attn.";
    builder.add_group({{attention + "q_proj.weight", {Q, C}},
                       {attention + "k_proj.weight", {KV, C}},
                       {attention + "v_proj.weight", {KV, C}}});
    if (config.qkv_bias) {
      builder.add_group({{attention + "q_proj.bias", {Q}},
                         {attention + "k_proj.bias", {KV}},
                         {attention + "v_proj.bias", {KV}}});
    }
    if (config.qk_norm) {
      builder.add(attention + "q_norm.weight", {config.head_dim()});
      builder.add(attention + "k_norm.weight", {config.head_dim()});
    }
    builder.add(attention + "o_proj.weight", {C, Q});
    builder.add(h + "post_attention_layernorm.weight", {C});
    builder.add_group({{h + "mlp.gate_proj.weight", {F, C}}, {h + "mlp.up_proj.weight", {F, C}}});
    builder.add(h + "mlp.down_proj.weight", {C, F});
  }
  builder.layer(-1);
  builder.add("model.norm.weight", {C});
}

// The A's of a group stand side by side: one product makes the low-rank activations of all of them.
void add_adapters(LayoutBuilder& builder, const ModelConfig& config, const Training& training) {
  builder.adapters_from_here();
  for (int64_t l = 0; l < config.n_layer; ++l) {
    builder.layer(l);
    for (const auto& modules : linear_modules(config, l)) {
      std::vector<std::pair<std::string, std::vector<int64_t>>> as;
      for (const LinearModule& module : modules)
        if (is_lora_target(module.name, training))
          as.push_back({lora_a_name(module.name), {training.lora_rank, module.in}});
      if (as.empty()) continue;
      builder.add_group(as);
      for (const LinearModule& module : modules)
        if (is_lora_target(module.name, training))
          builder.add(lora_b_name(module.name), {module.out, training.lora_rank});
    }
  }
}

}  // namespace

int64_t ParameterLayout::count() const {
  int64_t sum = 0;
  for (const ParameterInfo& info : parameters) sum += info.adapter ? 0 : info.numel;
  return sum;
}

int64_t ParameterLayout::trained_count() const {
  int64_t sum = 0;
  for (const ParameterInfo& info : parameters) sum += info.trained() ? info.numel : 0;
  return sum;
}

ParameterLayout parameter_layout(const ModelConfig& config, const Training& training) {
  ParameterLayout layout;
  LayoutBuilder builder(layout);
  if (config.family == Family::gpt2)
    add_gpt2(builder, config);
  else
    add_llama(builder, config);
  if (!config.tie_embeddings) builder.add("lm_head.weight", {config.vocab_size, config.n_embd});
  if (training.adapts()) {
    check_lora_targets(config, training);
    add_adapters(builder, config, training);
  }
  builder.finish();
  place_trained(layout, training);
  return layout;
}

}  // namespace train_sft
