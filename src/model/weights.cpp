#include "model/weights.h"

#include <fmt/format.h>

#include <string>

namespace train_sft {
namespace {

class Views {
 public:
  explicit Views(const Parameters& parameters) : parameters_(parameters) {}

  at::Tensor compute(const std::string& name) const { return parameters_.compute(name); }
  at::Tensor gradient(const std::string& name) const {
    return parameters_.trains(name) ? parameters_.gradient(name) : at::Tensor();
  }
  at::Tensor gradient(const std::string& first, const std::string& last) const {
    return parameters_.trains(first) ? parameters_.gradient_span(first, last) : at::Tensor();
  }

  NormWeights norm(const std::string& name, bool bias) const {
    NormWeights norm{compute(name + ".weight"), {}, gradient(name + ".weight"), {}};
    if (bias) {
      norm.bias = compute(name + ".bias");
      norm.grad_bias = gradient(name + ".bias");
    }
    return norm;
  }

  // The modules of a group as one matrix.
  LinearWeights linear(const std::vector<LinearModule>& modules, bool bias) const {
    const std::string &first = modules.front().name, &last = modules.back().name;
    const std::string w = ".weight", b = ".bias";
    LinearWeights linear;
    linear.weight = parameters_.compute_span(first + w, last + w);
    linear.grad_weight = gradient(first + w, last + w);
    if (bias) {
      linear.bias = parameters_.compute_span(first + b, last + b);
      linear.grad_bias = gradient(first + b, last + b);
    }
    linear.lora = lora(modules);
    return linear;
  }

 private:
  ops::Lora lora(const std::vector<LinearModule>& modules) const {
    ops::Lora lora;
    std::string first, last;
    for (const LinearModule& module : modules) {
      const std::string a = lora_a_name(module.name), b = lora_b_name(module.name);
      if (!parameters_.has(a)) continue;
      if (first.empty()) first = a;
      last = a;
      lora.targets.push_back({compute(b), gradient(b), module.column});
    }
    if (lora.targets.empty()) return lora;
    lora.a = parameters_.compute_span(first, last);
    lora.grad_a = gradient(first, last);
    lora.scale = parameters_.training().lora_scale();
    return lora;
  }

  const Parameters& parameters_;
};

LayerWeights layer_weights(const Views& views, const ModelConfig& config, int64_t l) {
  const auto modules = linear_modules(config, l);
  const auto linear = [&](size_t group, bool bias) { return views.linear(modules[group], bias); };
  if (config.family == Family::gpt2) {
    const std::string h = fmt::format("transformer.h.{}.", l);
    return {views.norm(h + "ln_1", true),
            linear(0, true),
            linear(1, true),
            views.norm(h + "ln_2", true),
            linear(2, true),
            linear(3, true),
            {},
            {}};
  }
  const std::string h = fmt::format("model.layers.{}.", l);
  LayerWeights weights = {views.norm(h + "input_layernorm", false),
                          linear(0, config.qkv_bias),
                          linear(1, false),
                          views.norm(h + "post_attention_layernorm", false),
                          linear(2, false),
                          linear(3, false),
                          {},
                          {}};
  if (config.qk_norm) {
    weights.q_norm = views.norm(h + "self_attn.q_norm", false);
    weights.k_norm = views.norm(h + "self_attn.k_norm", false);
  }
  return weights;
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
    weights.layers.push_back(layer_weights(views, config, l));
  weights.final_norm =
      gpt2 ? views.norm("transformer.ln_f", true) : views.norm("model.norm", false);
  const std::string head = config.tie_embeddings ? embedding : "lm_head.weight";
  weights.head = views.compute(head);
  weights.grad_head = views.gradient(head);
  return weights;
}

}  // namespace train_sft
