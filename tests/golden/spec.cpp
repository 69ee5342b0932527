#include "golden/spec.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace train_sft::spec {
namespace {

at::Tensor rows_of(const at::Tensor& tensor, int64_t begin, int64_t end) {
  return tensor.defined() ? tensor.slice(0, begin, end) : tensor;
}

DropoutMasks rows_of(const DropoutMasks& masks, int64_t begin, int64_t end) {
  DropoutMasks part;
  part.embedding = rows_of(masks.embedding, begin, end);
  for (const auto& mask : masks.attention) part.attention.push_back(rows_of(mask, begin, end));
  for (const auto& mask : masks.ffn) part.ffn.push_back(rows_of(mask, begin, end));
  return part;
}

at::Tensor drop(const at::Tensor& x, const at::Tensor& mask) {
  return mask.defined() ? x * mask.to(x.dtype()) : x;
}

at::Tensor drop(const at::Tensor& x, const std::vector<at::Tensor>& masks, int64_t layer) {
  return masks.empty() ? x : drop(x, masks.at(static_cast<size_t>(layer)));
}

at::Tensor to_tensor(const std::vector<int32_t>& values) {
  return at::tensor(at::ArrayRef<int32_t>(values), at::kInt).to(at::kLong);
}

}  // namespace

Model::Model(const Parameters& parameters, at::ScalarType dtype, Source source)
    : config_(parameters.config()) {
  for (const ParameterInfo& info : parameters.layout().parameters) {
    const at::Tensor from =
        source == Source::master ? parameters.master(info.name) : parameters.compute(info.name);
    at::Tensor copy = from.detach().clone().to(dtype);
    copy.requires_grad_(true);
    parameters_[info.name] = copy;
  }
}

void Model::zero_gradients() {
  for (auto& [name, tensor] : parameters_) tensor.mutable_grad() = at::Tensor();
}

at::Tensor Model::layer_norm(const at::Tensor& x, const std::string& name) const {
  const at::Tensor mean = x.mean(-1, true);
  const at::Tensor variance = (x - mean).pow(2).mean(-1, true);
  return (x - mean) / (variance + config_.norm_eps).sqrt() * parameter(name + ".weight") +
         parameter(name + ".bias");
}

at::Tensor Model::rms_norm(const at::Tensor& x, const std::string& name) const {
  return x / (x.pow(2).mean(-1, true) + config_.norm_eps).sqrt() * parameter(name + ".weight");
}

// q [H, T, D], k and v [KV, T, D] → [T, H*D]. Query head h reads key head h / (H / KV).
at::Tensor Model::attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
  const int64_t T = q.size(1);
  const int64_t share = q.size(0) / k.size(0);
  const at::Tensor keys = k.repeat_interleave(share, 0);
  const at::Tensor values = v.repeat_interleave(share, 0);
  at::Tensor scores =
      at::matmul(q, keys.transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor future = at::ones({T, T}, at::kBool).triu(1);
  scores = scores.masked_fill(future, -std::numeric_limits<double>::infinity());
  const at::Tensor mixed = at::matmul(at::softmax(scores, -1), values);
  return mixed.transpose(0, 1).reshape({T, q.size(0) * q.size(2)});
}

// Su et al. 2021, in Llama's arrangement: element i is rotated with element i + D/2.
at::Tensor Model::rope(const at::Tensor& x, const at::Tensor& positions) const {
  const int64_t half = x.size(2) / 2;
  const at::Tensor exponent = at::arange(half, at::kDouble) / static_cast<double>(half);
  const at::Tensor frequency = at::pow(config_.rope_theta, -exponent);
  const at::Tensor angle = at::outer(positions.to(at::kDouble), frequency);
  const at::Tensor cosine = angle.cos().to(x.dtype());
  const at::Tensor sine = angle.sin().to(x.dtype());
  const at::Tensor a = x.slice(2, 0, half);
  const at::Tensor b = x.slice(2, half);
  return at::cat({a * cosine - b * sine, b * cosine + a * sine}, 2);
}

at::Tensor Model::gpt2(const at::Tensor& tokens, const at::Tensor& positions,
                       const DropoutMasks& masks) const {
  const int64_t T = tokens.size(0);
  const int64_t H = config_.n_head;
  const int64_t C = config_.n_embd;
  const auto heads = [&](const at::Tensor& x) { return x.view({T, H, C / H}).transpose(0, 1); };

  const at::Tensor wte = parameter("transformer.wte.weight");
  at::Tensor x =
      wte.index_select(0, tokens) + parameter("transformer.wpe.weight").index_select(0, positions);
  x = drop(x, masks.embedding);
  for (int64_t l = 0; l < config_.n_layer; ++l) {
    const std::string h = fmt::format("transformer.h.{}.", l);
    const auto linear = [&](const at::Tensor& in, const std::string& name) {
      return at::matmul(in, parameter(h + name + ".weight")) + parameter(h + name + ".bias");
    };
    const at::Tensor qkv = linear(layer_norm(x, h + "ln_1"), "attn.c_attn");
    const at::Tensor mixed = attention(heads(qkv.slice(1, 0, C)), heads(qkv.slice(1, C, 2 * C)),
                                       heads(qkv.slice(1, 2 * C)));
    x = x + drop(linear(mixed, "attn.c_proj"), masks.attention, l);
    const at::Tensor up = linear(layer_norm(x, h + "ln_2"), "mlp.c_fc");
    const at::Tensor inner = std::sqrt(2.0 / M_PI) * (up + 0.044715 * up.pow(3));
    const at::Tensor gelu = 0.5 * up * (1.0 + at::tanh(inner));
    x = x + drop(linear(gelu, "mlp.c_proj"), masks.ffn, l);
  }
  const at::Tensor head = config_.tie_embeddings ? wte : parameter("lm_head.weight");
  return at::matmul(layer_norm(x, "transformer.ln_f"), head.t());
}

at::Tensor Model::llama(const at::Tensor& tokens, const at::Tensor& positions,
                        const DropoutMasks& masks) const {
  const int64_t T = tokens.size(0);
  const int64_t D = config_.head_dim();
  const auto heads = [&](const at::Tensor& x) { return x.view({T, -1, D}).transpose(0, 1); };

  const at::Tensor embedding = parameter("model.embed_tokens.weight");
  at::Tensor x = drop(embedding.index_select(0, tokens), masks.embedding);
  for (int64_t l = 0; l < config_.n_layer; ++l) {
    const std::string h = fmt::format("model.layers.{}.", l);
    const auto linear = [&](const at::Tensor& in, const std::string& name, bool bias = false) {
      const at::Tensor out = at::matmul(in, parameter(h + name + ".weight").t());
      return bias ? out + parameter(h + name + ".bias") : out;
    };
    const at::Tensor in = rms_norm(x, h + "input_layernorm");
    const bool bias = config_.qkv_bias;
    const auto rotated = [&](const std::string& name) {
      at::Tensor y = heads(linear(in, "self_attn." + name + "_proj", bias));
      if (config_.qk_norm) y = rms_norm(y, h + "self_attn." + name + "_norm");
      return rope(y, positions);
    };
    const at::Tensor q = rotated("q"), k = rotated("k");
    const at::Tensor v = heads(linear(in, "self_attn.v_proj", bias));
    x = x + drop(linear(attention(q, k, v), "self_attn.o_proj"), masks.attention, l);
    const at::Tensor post = rms_norm(x, h + "post_attention_layernorm");
    const at::Tensor gate = linear(post, "mlp.gate_proj");
    const at::Tensor silu = gate * at::sigmoid(gate);
    x = x + drop(linear(silu * linear(post, "mlp.up_proj"), "mlp.down_proj"), masks.ffn, l);
  }
  const at::Tensor head = config_.tie_embeddings ? embedding : parameter("lm_head.weight");
  return at::matmul(rms_norm(x, "model.norm"), head.t());
}

at::Tensor Model::logits(const Batch& batch, const DropoutMasks& masks) const {
  const at::Tensor tokens = to_tensor(batch.tokens);
  const at::Tensor positions = to_tensor(batch.positions);
  std::vector<at::Tensor> parts;
  for (size_t d = 0; d + 1 < batch.cu_seqlens.size(); ++d) {
    const int64_t begin = batch.cu_seqlens[d];
    const int64_t end = batch.cu_seqlens[d + 1];
    const at::Tensor ids = tokens.slice(0, begin, end);
    const at::Tensor places = positions.slice(0, begin, end);
    const DropoutMasks part = masks.empty() ? DropoutMasks{} : rows_of(masks, begin, end);
    parts.push_back(config_.family == Family::gpt2 ? gpt2(ids, places, part)
                                                   : llama(ids, places, part));
  }
  return at::cat(parts, 0);
}

at::Tensor Model::loss(const Batch& batch, const DropoutMasks& masks) const {
  const at::Tensor log_p = at::log_softmax(logits(batch, masks), -1);
  const at::Tensor learned = to_tensor(batch.learned);
  const at::Tensor targets = to_tensor(batch.targets).index_select(0, learned);
  at::Tensor weights = at::ones({learned.size(0)}, log_p.options());
  for (size_t i = 0; i < batch.weights.size(); ++i)
    weights[static_cast<int64_t>(i)] = static_cast<double>(batch.weights[i]);
  const at::Tensor nll = -log_p.index_select(0, learned).gather(1, targets.unsqueeze(1));
  return (weights * nll.squeeze(1)).sum();
}

}  // namespace train_sft::spec
