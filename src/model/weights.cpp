#include "model/weights.h"

#include <fmt/format.h>

#include <string>

namespace train_sft {
namespace {

class Views {
 public:
  explicit Views(const Parameters& parameters)
      : parameters_(parameters), gradients_(parameters.has_gradients()) {}

  at::Tensor compute(const std::string& name) const { return parameters_.compute(name); }
  at::Tensor gradient(const std::string& name) const {
    return gradients_ ? parameters_.gradient(name) : at::Tensor();
  }

  NormWeights norm(const std::string& name, bool bias) const {
    NormWeights norm{compute(name + ".weight"), {}, gradient(name + ".weight"), {}};
    if (bias) {
      norm.bias = compute(name + ".bias");
      norm.grad_bias = gradient(name + ".bias");
    }
    return norm;
  }

  // The matrices first … last as one.
  LinearWeights linear(const std::string& first, const std::string& last, bool bias) const {
    const std::string w = ".weight", b = ".bias";
    LinearWeights linear{parameters_.compute_span(first + w, last + w), {}, {}, {}};
    if (bias) linear.bias = parameters_.compute_span(first + b, last + b);
    if (gradients_) {
      linear.grad_weight = parameters_.gradient_span(first + w, last + w);
      if (bias) linear.grad_bias = parameters_.gradient_span(first + b, last + b);
    }
    return linear;
  }
  LinearWeights linear(const std::string& name, bool bias) const {
    return linear(name, name, bias);
  }

 private:
  const Parameters& parameters_;
  bool gradients_;
};

LayerWeights gpt2_layer(const Views& views, int64_t l) {
  const std::string h = fmt::format("transformer.h.{}.", l);
  return {views.norm(h + "ln_1", true),          views.linear(h + "attn.c_attn", true),
          views.linear(h + "attn.c_proj", true), views.norm(h + "ln_2", true),
          views.linear(h + "mlp.c_fc", true),    views.linear(h + "mlp.c_proj", true)};
}

LayerWeights llama_layer(const Views& views, int64_t l, bool qkv_bias) {
  const std::string h = fmt::format("model.layers.{}.", l);
  return {views.norm(h + "input_layernorm", false),
          views.linear(h + "self_attn.q_proj", h + "self_attn.v_proj", qkv_bias),
          views.linear(h + "self_attn.o_proj", false),
          views.norm(h + "post_attention_layernorm", false),
          views.linear(h + "mlp.gate_proj", h + "mlp.up_proj", false),
          views.linear(h + "mlp.down_proj", false)};
}

}  // namespace

ModelWeights model_weights(const Parameters& parameters) {
  const ModelConfig& config = parameters.config();
  const Views views(parameters);
  const bool gpt2 = config.family == Family::gpt2;
  ModelWeights weights;
  weights.layout = gpt2 ? ops::WeightLayout::in_out : ops::WeightLayout::out_in;
  const std::string embedding = gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
  weights.embedding = views.compute(embedding);
  weights.grad_embedding = views.gradient(embedding);
  if (gpt2) {
    weights.position = views.compute("transformer.wpe.weight");
    weights.grad_position = views.gradient("transformer.wpe.weight");
  }
  for (int64_t l = 0; l < config.n_layer; ++l)
    weights.layers.push_back(gpt2 ? gpt2_layer(views, l) : llama_layer(views, l, config.qkv_bias));
  weights.final_norm =
      gpt2 ? views.norm("transformer.ln_f", true) : views.norm("model.norm", false);
  const std::string head = config.tie_embeddings ? embedding : "lm_head.weight";
  weights.head = views.compute(head);
  weights.grad_head = views.gradient(head);
  return weights;
}

}  // namespace train_sft
