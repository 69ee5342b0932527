#include "golden/spec.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace train_sft::spec {
namespace {

torch::Tensor rows_of(const torch::Tensor& tensor, int64_t begin, int64_t end) {
  return tensor.defined() ? tensor.slice(0, begin, end) : tensor;
}

DropoutMasks rows_of(const DropoutMasks& masks, int64_t begin, int64_t end) {
  DropoutMasks part;
  part.embedding = rows_of(masks.embedding, begin, end);
  for (const auto& mask : masks.attention) part.attention.push_back(rows_of(mask, begin, end));
  for (const auto& mask : masks.ffn) part.ffn.push_back(rows_of(mask, begin, end));
  return part;
}

torch::Tensor drop(const torch::Tensor& x, const torch::Tensor& mask) {
  return mask.defined() ? x * mask.to(x.dtype()) : x;
}

torch::Tensor drop(const torch::Tensor& x, const std::vector<torch::Tensor>& masks, int64_t layer) {
  return masks.empty() ? x : drop(x, masks.at(static_cast<size_t>(layer)));
}

torch::Tensor to_tensor(const std::vector<int32_t>& values) {
  return torch::tensor(at::ArrayRef<int32_t>(values), torch::kInt).to(torch::kLong);
}

}  // namespace

Model::Model(const Parameters& parameters, torch::ScalarType dtype, Source source)
    : config_(parameters.config()) {
  for (const ParameterInfo& info : parameters.layout().parameters) {
    const torch::Tensor from =
        source == Source::master ? parameters.master(info.name) : parameters.compute(info.name);
    torch::Tensor copy = from.detach().clone().to(dtype);
    copy.requires_grad_(true);
    parameters_[info.name] = copy;
  }
}

void Model::zero_gradients() {
  for (auto& [name, tensor] : parameters_) tensor.mutable_grad() = torch::Tensor();
}

torch::Tensor Model::layer_norm(const torch::Tensor& x, const std::string& name) const {
  const torch::Tensor mean = x.mean(-1, true);
  const torch::Tensor variance = (x - mean).pow(2).mean(-1, true);
  return (x - mean) / (variance + config_.norm_eps).sqrt() * parameter(name + ".weight") +
         parameter(name + ".bias");
}

torch::Tensor Model::rms_norm(const torch::Tensor& x, const std::string& name) const {
  return x / (x.pow(2).mean(-1, true) + config_.norm_eps).sqrt() * parameter(name + ".weight");
}

// q [H, T, D], k and v [KV, T, D] → [T, H*D]. Query head h reads key head h / (H / KV).
torch::Tensor Model::attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v) const {
  const int64_t T = q.size(1);
  const int64_t share = q.size(0) / k.size(0);
  const torch::Tensor keys = k.repeat_interleave(share, 0);
  const torch::Tensor values = v.repeat_interleave(share, 0);
  torch::Tensor scores =
      torch::matmul(q, keys.transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
  const torch::Tensor future = torch::ones({T, T}, torch::kBool).triu(1);
  scores = scores.masked_fill(future, -std::numeric_limits<double>::infinity());
  const torch::Tensor mixed = torch::matmul(torch::softmax(scores, -1), values);
  return mixed.transpose(0, 1).reshape({T, q.size(0) * q.size(2)});
}

// Su et al. 2021, in Llama's arrangement: element i is rotated with element i + D/2.
torch::Tensor Model::rope(const torch::Tensor& x, const torch::Tensor& positions) const {
  const int64_t half = x.size(2) / 2;
  const torch::Tensor exponent = torch::arange(half, torch::kDouble) / static_cast<double>(half);
  const torch::Tensor frequency = torch::pow(config_.rope_theta, -exponent);
  const torch::Tensor angle = torch::outer(positions.to(torch::kDouble), frequency);
  const torch::Tensor cosine = angle.cos().to(x.dtype());
  const torch::Tensor sine = angle.sin().to(x.dtype());
  const torch::Tensor a = x.slice(2, 0, half);
  const torch::Tensor b = x.slice(2, half);
  return torch::cat({a * cosine - b * sine, b * cosine + a * sine}, 2);
}

torch::Tensor Model::gpt2(const torch::Tensor& tokens, const torch::Tensor& positions,
                          const DropoutMasks& masks) const {
  const int64_t T = tokens.size(0);
  const int64_t H = config_.n_head;
  const int64_t C = config_.n_embd;
  const auto heads = [&](const torch::Tensor& x) { return x.view({T, H, C / H}).transpose(0, 1); };

  const torch::Tensor wte = parameter("transformer.wte.weight");
  torch::Tensor x =
      wte.index_select(0, tokens) + parameter("transformer.wpe.weight").index_select(0, positions);
  x = drop(x, masks.embedding);
  for (int64_t l = 0; l < config_.n_layer; ++l) {
    const std::string h = fmt::format("transformer.h.{}.", l);
    const auto linear = [&](const torch::Tensor& in, const std::string& name) {
      return torch::matmul(in, parameter(h + name + ".weight")) + parameter(h + name + ".bias");
    };
    const torch::Tensor qkv = linear(layer_norm(x, h + "ln_1"), "attn.c_attn");
    const torch::Tensor mixed = attention(heads(qkv.slice(1, 0, C)), heads(qkv.slice(1, C, 2 * C)),
                                          heads(qkv.slice(1, 2 * C)));
    x = x + drop(linear(mixed, "attn.c_proj"), masks.attention, l);
    const torch::Tensor up = linear(layer_norm(x, h + "ln_2"), "mlp.c_fc");
    const torch::Tensor inner = std::sqrt(2.0 / M_PI) * (up + 0.044715 * up.pow(3));
    const torch::Tensor gelu = 0.5 * up * (1.0 + torch::tanh(inner));
    x = x + drop(linear(gelu, "mlp.c_proj"), masks.ffn, l);
  }
  const torch::Tensor head = config_.tie_embeddings ? wte : parameter("lm_head.weight");
  return torch::matmul(layer_norm(x, "transformer.ln_f"), head.t());
}

torch::Tensor Model::llama(const torch::Tensor& tokens, const torch::Tensor& positions,
                           const DropoutMasks& masks) const {
  const int64_t T = tokens.size(0);
  const int64_t D = config_.head_dim();
  const auto heads = [&](const torch::Tensor& x) { return x.view({T, -1, D}).transpose(0, 1); };

  const torch::Tensor embedding = parameter("model.embed_tokens.weight");
  torch::Tensor x = drop(embedding.index_select(0, tokens), masks.embedding);
  for (int64_t l = 0; l < config_.n_layer; ++l) {
    const std::string h = fmt::format("model.layers.{}.", l);
    const auto linear = [&](const torch::Tensor& in, const std::string& name, bool bias = false) {
      const torch::Tensor out = torch::matmul(in, parameter(h + name + ".weight").t());
      return bias ? out + parameter(h + name + ".bias") : out;
    };
    const torch::Tensor in = rms_norm(x, h + "input_layernorm");
    const bool bias = config_.qkv_bias;
    const auto rotated = [&](const std::string& name) {
      torch::Tensor y = heads(linear(in, "self_attn." + name + "_proj", bias));
      if (config_.qk_norm) y = rms_norm(y, h + "self_attn." + name + "_norm");
      return rope(y, positions);
    };
    const torch::Tensor q = rotated("q"), k = rotated("k");
    const torch::Tensor v = heads(linear(in, "self_attn.v_proj", bias));
    x = x + drop(linear(attention(q, k, v), "self_attn.o_proj"), masks.attention, l);
    const torch::Tensor post = rms_norm(x, h + "post_attention_layernorm");
    const torch::Tensor gate = linear(post, "mlp.gate_proj");
    const torch::Tensor silu = gate * torch::sigmoid(gate);
    x = x + drop(linear(silu * linear(post, "mlp.up_proj"), "mlp.down_proj"), masks.ffn, l);
  }
  const torch::Tensor head = config_.tie_embeddings ? embedding : parameter("lm_head.weight");
  return torch::matmul(rms_norm(x, "model.norm"), head.t());
}

torch::Tensor Model::logits(const Batch& batch, const DropoutMasks& masks) const {
  const torch::Tensor tokens = to_tensor(batch.tokens);
  const torch::Tensor positions = to_tensor(batch.positions);
  std::vector<torch::Tensor> parts;
  for (size_t d = 0; d + 1 < batch.cu_seqlens.size(); ++d) {
    const int64_t begin = batch.cu_seqlens[d];
    const int64_t end = batch.cu_seqlens[d + 1];
    const torch::Tensor ids = tokens.slice(0, begin, end);
    const torch::Tensor places = positions.slice(0, begin, end);
    const DropoutMasks part = masks.empty() ? DropoutMasks{} : rows_of(masks, begin, end);
    parts.push_back(config_.family == Family::gpt2 ? gpt2(ids, places, part)
                                                   : llama(ids, places, part));
  }
  return torch::cat(parts, 0);
}

torch::Tensor Model::loss(const Batch& batch, const DropoutMasks& masks) const {
  const torch::Tensor log_p = torch::log_softmax(logits(batch, masks), -1);
  const torch::Tensor learned = to_tensor(batch.learned);
  const torch::Tensor targets = to_tensor(batch.targets).index_select(0, learned);
  torch::Tensor weights = torch::ones({learned.size(0)}, log_p.options());
  for (size_t i = 0; i < batch.weights.size(); ++i)
    weights[static_cast<int64_t>(i)] = static_cast<double>(batch.weights[i]);
  const torch::Tensor nll = -log_p.index_select(0, learned).gather(1, targets.unsqueeze(1));
  return (weights * nll.squeeze(1)).sum();
}

}  // namespace train_sft::spec
