#include "train_sft/model/decoder.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "model/activations.h"
#include "model/family_ops.h"
#include "model/weights.h"
#include "train_sft/base/error.h"
#include "train_sft/base/signals.h"
#include "train_sft/ops/attention.h"
#include "train_sft/ops/embedding.h"
#include "train_sft/ops/linear.h"

namespace train_sft {
namespace {

// A long prompt is fed in pieces: activations stay small, products stay large.
constexpr int64_t kPromptPiece = 256;

}  // namespace

struct Decoder::State {
  explicit State(const Parameters& parameters)
      : config(parameters.config()),
        weights(model_weights(parameters)),
        family(config, parameters.compute().scalar_type(), parameters.device()),
        activations(config, parameters.training(), parameters.compute().scalar_type(),
                    Activations::Purpose::inference, false, Recompute::none,
                    std::make_shared<ArenaStorage>(0), ops::kLossScratchBytes) {
    const at::TensorOptions options = parameters.compute().options();
    for (int64_t l = 0; l < config.n_layer; ++l) {
      const std::vector<int64_t> shape = {config.block_size, config.kv_heads(), config.head_dim()};
      cache.push_back({at::empty(shape, options), at::empty(shape, options)});
    }
    logits_row = at::empty({1, config.vocab_size}, options);
    logits.resize(static_cast<size_t>(config.vocab_size));
  }

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  void feed(std::span<const int32_t> piece);
  void layer(size_t l, int64_t count);
  void remember(size_t l, int64_t count);
  void read_logits(int64_t count);

  struct LayerCache {
    at::Tensor keys, values;  // [block_size, Hkv, D]
  };

  ModelConfig config;
  ModelWeights weights;
  FamilyOps family;
  Activations activations;
  std::vector<LayerCache> cache;
  at::Tensor logits_row;
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;  // of the piece being fed
  std::vector<float> logits;
};

void Decoder::State::feed(std::span<const int32_t> piece) {
  const auto count = static_cast<int64_t>(piece.size());
  activations.bind(count, count);
  positions.resize(piece.size());
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(length()));
  ops::embedding_forward(activations.layers.front().residual1, weights.embedding, weights.position,
                         piece, positions);
  for (size_t l = 0; l < cache.size(); ++l) layer(l, count);
  tokens.insert(tokens.end(), piece.begin(), piece.end());
}

void Decoder::State::layer(size_t l, int64_t count) {
  const LayerWeights& w = weights.layers[l];
  LayerActivations& x = activations.layers[l];
  if (l == 0) {
    family.norm_forward(x.normed1, {}, x.mean1, x.rstd1, x.residual1, {}, w.norm1);
  } else {
    const LayerActivations& below = activations.layers[l - 1];
    family.norm_forward(x.normed1, x.residual1, x.mean1, x.rstd1, below.residual2, below.ffn_out,
                        w.norm1);
  }
  family.linear_forward(x.qkv, x.normed1, w.qkv, x.low_qkv);
  family.qk_norm_forward(x.qkv, x.qk_input, x.qk_rstd, w);
  family.rope_forward(x.qkv, positions);
  remember(l, count);
  ops::attention_decode(x.mixed, x.qkv.narrow(1, 0, config.attention_width()), cache[l].keys,
                        cache[l].values, length() + count, family.attention());
  family.linear_forward(x.attention_out, x.mixed, w.proj, x.low_proj);
  family.norm_forward(x.normed2, x.residual2, x.mean2, x.rstd2, x.residual1, x.attention_out,
                      w.norm2);
  family.linear_forward(x.up, x.normed2, w.up, x.low_up);
  family.activation_forward(x.activated, x.up);
  family.linear_forward(x.ffn_out, x.activated, w.down, x.low_down);
}

// Copies the piece's keys and values to their places in the cache.
void Decoder::State::remember(size_t l, int64_t count) {
  const at::Tensor& qkv = activations.layers[l].qkv;
  const size_t element = qkv.element_size();
  const size_t row = static_cast<size_t>(qkv.size(1)) * element;
  const size_t width = static_cast<size_t>(config.kv_heads() * config.head_dim()) * element;
  const auto* from = static_cast<const char*>(qkv.const_data_ptr()) +
                     static_cast<size_t>(config.attention_width()) * element;
  const size_t place = static_cast<size_t>(length()) * width;
  auto* keys = static_cast<char*>(cache[l].keys.data_ptr()) + place;
  auto* values = static_cast<char*>(cache[l].values.data_ptr()) + place;
  for (size_t m = 0; m < static_cast<size_t>(count); ++m) {
    std::memcpy(keys + m * width, from + m * row, width);
    std::memcpy(values + m * width, from + m * row + width, width);
  }
}

// The final norm and the head of the last token alone.
void Decoder::State::read_logits(int64_t count) {
  const LayerActivations& last = activations.layers.back();
  const auto row = [&](const at::Tensor& t) { return t.narrow(0, count - 1, 1); };
  const at::Tensor normed = row(activations.final_normed);
  family.norm_forward(normed, row(activations.final_residual), row(activations.final_mean),
                      row(activations.final_rstd), row(last.residual2), row(last.ffn_out),
                      weights.final_norm);
  ops::linear_forward(logits_row, normed, weights.head, {}, ops::WeightLayout::out_in);
  const auto convert = [&]<typename T>(const T* from) {
    std::transform(from, from + logits.size(), logits.begin(),
                   [](T value) { return static_cast<float>(value); });
  };
  if (logits_row.scalar_type() == at::kFloat)
    convert(logits_row.const_data_ptr<float>());
  else if (logits_row.scalar_type() == at::kDouble)
    convert(logits_row.const_data_ptr<double>());
  else
    convert(logits_row.const_data_ptr<at::BFloat16>());
}

Decoder::Decoder(Parameters& parameters) : state_(std::make_unique<State>(parameters)) {}
Decoder::~Decoder() = default;

const std::vector<float>& Decoder::append(std::span<const int32_t> tokens) {
  State& s = *state_;
  const auto count = static_cast<int64_t>(tokens.size());
  TRAIN_SFT_CHECK(count > 0 && length() + count <= capacity(), "{} tokens after {} of {}", count,
                  length(), capacity());
  int64_t fed = 0, piece = 0;
  for (; fed < count; fed += piece) {
    piece = std::min(kPromptPiece, count - fed);
    s.feed(tokens.subspan(static_cast<size_t>(fed), static_cast<size_t>(piece)));
  }
  s.read_logits(piece);
  return s.logits;
}

const std::vector<int32_t>& Decoder::tokens() const {
  return state_->tokens;
}
int64_t Decoder::length() const {
  return state_->length();
}
int64_t Decoder::capacity() const {
  return state_->config.block_size;
}
void Decoder::clear() {
  state_->tokens.clear();
}

void Decoder::truncate(int64_t n) {
  TRAIN_SFT_CHECK(n >= 0 && n <= length(), "truncate to {} of {} tokens", n, length());
  state_->tokens.resize(static_cast<size_t>(n));
}

std::vector<int32_t> generate(Decoder& decoder, const std::vector<int32_t>& prompt,
                              const std::vector<int32_t>& stop_ids, const SamplingOptions& options,
                              const std::function<void(int32_t)>& on_token) {
  TRAIN_SFT_CHECK(!prompt.empty(), "an empty prompt");
  const int64_t size = decoder.length() + static_cast<int64_t>(prompt.size());
  if (size > decoder.capacity()) {
    throw UsageError(
        "the prompt has {} tokens, but the model's context (block_size) holds {}; shorten it", size,
        decoder.capacity());
  }
  const std::vector<float>* logits = &decoder.append(prompt);
  std::vector<int32_t> generated;
  while (static_cast<int64_t>(generated.size()) < options.max_new_tokens) {
    const int32_t id = sample(*logits, options, generated.size());
    if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) break;
    generated.push_back(id);
    if (on_token) on_token(id);
    if (decoder.length() == decoder.capacity() || signals::stop_requested()) break;
    if (static_cast<int64_t>(generated.size()) < options.max_new_tokens)
      logits = &decoder.append({&id, 1});
  }
  return generated;
}

}  // namespace train_sft
