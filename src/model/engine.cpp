#include "train_sft/model/engine.h"

#include <ATen/ops/empty.h>

#include <utility>
#include <vector>

#include "model/activations.h"
#include "model/dropout_sites.h"
#include "model/family_ops.h"
#include "model/weights.h"
#include "train_sft/base/error.h"
#include "train_sft/ops/attention.h"
#include "train_sft/ops/cross_entropy.h"
#include "train_sft/ops/dropout.h"
#include "train_sft/ops/embedding.h"
#include "train_sft/ops/linear.h"

namespace train_sft {
namespace {

void check(const Batch& batch, const ModelConfig& config) {
  const int64_t n = batch.size();
  TRAIN_SFT_CHECK(static_cast<int64_t>(batch.positions.size()) == n, "one position a token");
  TRAIN_SFT_CHECK(static_cast<int64_t>(batch.targets.size()) == n, "one target a token");
  TRAIN_SFT_CHECK(batch.cu_seqlens.size() == batch.example_ids.size() + 1 &&
                      batch.cu_seqlens.front() == 0 && batch.cu_seqlens.back() == n,
                  "cu_seqlens do not cover the batch");
  TRAIN_SFT_CHECK(batch.max_seqlen <= config.block_size, "a document of {} tokens, block_size {}",
                  batch.max_seqlen, config.block_size);
  TRAIN_SFT_CHECK(batch.weights.empty() || batch.weights.size() == batch.learned.size(),
                  "one weight a learned target");
}

}  // namespace

struct Engine::State {
  State(Parameters& p, const EngineOptions& o)
      : parameters(p),
        options(o),
        config(p.config()),
        weights(model_weights(p)),
        family(config, p.compute().scalar_type()),
        storage(std::make_shared<ArenaStorage>(o.max_arena_bytes)),
        inference(config, p.compute().scalar_type(), Activations::Purpose::inference, false,
                  storage) {
    TRAIN_SFT_CHECK(o.dropout >= 0 && o.dropout < 1, "dropout {}", o.dropout);
    const at::ScalarType dtype = p.compute().scalar_type();
    if (p.has_gradients())
      training = std::make_unique<Activations>(config, dtype, Activations::Purpose::training,
                                               o.dropout > 0, storage);
    if (o.max_tokens > 0) (training ? *training : inference).bind(o.max_tokens);
  }

  // grad through a dropout, into `dropped`; the gradient itself when nothing drops out.
  const at::Tensor& dropout_backward(const at::Tensor& dropped, const at::Tensor& grad,
                                     uint32_t site) const;

  void forward(Activations& a, const Batch& batch, bool dropout) const;
  void layer_forward(Activations& a, size_t l, const Batch& batch, bool dropout) const;
  void backward(Activations& a, const Batch& batch) const;
  void attention_backward(Activations& a, size_t l, const Batch& batch) const;
  void ffn_backward(Activations& a, size_t l) const;
  LossSums loss(Activations& a, const Batch& batch, bool gradients) const;

  Parameters& parameters;
  EngineOptions options;
  ModelConfig config;
  ModelWeights weights;
  FamilyOps family;
  std::shared_ptr<ArenaStorage> storage;
  Activations inference;
  std::unique_ptr<Activations> training;
  std::vector<uint64_t> row_keys;  // of dropout
};

const at::Tensor& Engine::State::dropout_backward(const at::Tensor& dropped, const at::Tensor& grad,
                                                  uint32_t site) const {
  if (options.dropout == 0) return grad;
  ops::dropout(dropped, grad, row_keys, site, options.dropout);
  return dropped;
}

void Engine::State::forward(Activations& a, const Batch& batch, bool dropout) const {
  const at::Tensor& x = a.layers.front().residual1;
  ops::embedding_forward(x, weights.embedding, weights.position, batch.tokens, batch.positions);
  if (dropout) ops::dropout(x, x, row_keys, kEmbeddingSite, options.dropout);
  for (size_t l = 0; l < a.layers.size(); ++l) layer_forward(a, l, batch, dropout);
  const LayerActivations& last = a.layers.back();
  family.norm_forward(a.final_normed, a.final_residual, a.final_mean, a.final_rstd, last.residual2,
                      last.ffn_out, weights.final_norm);
}

void Engine::State::layer_forward(Activations& a, size_t l, const Batch& batch,
                                  bool dropout) const {
  const LayerWeights& w = weights.layers[l];
  LayerActivations& x = a.layers[l];
  if (l == 0) {
    family.norm_forward(x.normed1, {}, x.mean1, x.rstd1, x.residual1, {}, w.norm1);
  } else {
    const LayerActivations& below = a.layers[l - 1];
    family.norm_forward(x.normed1, x.residual1, x.mean1, x.rstd1, below.residual2, below.ffn_out,
                        w.norm1);
  }
  family.linear_forward(x.qkv, x.normed1, w.qkv);
  family.rope_forward(x.qkv, batch.positions);
  ops::attention_forward(x.mixed, x.lse, x.qkv, batch.cu_seqlens, family.attention());
  family.linear_forward(x.attention_out, x.mixed, w.proj);
  if (dropout)
    ops::dropout(x.attention_out, x.attention_out, row_keys, attention_site(l), options.dropout);

  family.norm_forward(x.normed2, x.residual2, x.mean2, x.rstd2, x.residual1, x.attention_out,
                      w.norm2);
  family.linear_forward(x.up, x.normed2, w.up);
  family.activation_forward(x.activated, x.up);
  family.linear_forward(x.ffn_out, x.activated, w.down);
  if (dropout) ops::dropout(x.ffn_out, x.ffn_out, row_keys, ffn_site(l), options.dropout);
}

LossSums Engine::State::loss(Activations& a, const Batch& batch, bool gradients) const {
  const ops::CrossEntropySums sums = ops::linear_cross_entropy(
      gradients ? a.final_normed : at::Tensor(), gradients ? weights.grad_head : at::Tensor(),
      a.final_normed, weights.head, batch.targets, batch.learned, batch.weights, a.loss_scratch);
  return {sums.loss, sums.weight, sums.tokens, sums.correct};
}

void Engine::State::backward(Activations& a, const Batch& batch) const {
  family.norm_backward(a.grad_residual, a.final_normed, a.final_residual, a.final_mean,
                       a.final_rstd, weights.final_norm, false);
  for (size_t l = a.layers.size(); l-- > 0;) {
    ffn_backward(a, l);
    attention_backward(a, l, batch);
  }
  if (options.dropout > 0)
    ops::dropout(a.grad_residual, a.grad_residual, row_keys, kEmbeddingSite, options.dropout);
  ops::embedding_backward(weights.grad_embedding, weights.grad_position, a.grad_residual,
                          batch.tokens, batch.positions);
}

void Engine::State::ffn_backward(Activations& a, size_t l) const {
  const LayerWeights& w = weights.layers[l];
  const LayerActivations& x = a.layers[l];
  const at::Tensor& grad_out = dropout_backward(x.grad_ffn_out, a.grad_residual, ffn_site(l));
  family.linear_backward(x.grad_activated, grad_out, x.activated, w.down);
  const at::Tensor& grad_up = family.activation_backward(x.grad_activated, x.up);
  family.linear_backward(x.grad_normed2, grad_up, x.normed2, w.up);
  family.norm_backward(a.grad_residual, x.grad_normed2, x.residual2, x.mean2, x.rstd2, w.norm2,
                       true);
}

void Engine::State::attention_backward(Activations& a, size_t l, const Batch& batch) const {
  const LayerWeights& w = weights.layers[l];
  const LayerActivations& x = a.layers[l];
  const at::Tensor& grad_out =
      dropout_backward(x.grad_attention_out, a.grad_residual, attention_site(l));
  family.linear_backward(x.grad_mixed, grad_out, x.mixed, w.proj);
  ops::attention_backward(x.grad_qkv, x.grad_mixed, x.mixed, x.lse, x.qkv, batch.cu_seqlens,
                          family.attention());
  family.rope_backward(x.grad_qkv, batch.positions);
  family.linear_backward(x.grad_normed1, x.grad_qkv, x.normed1, w.qkv);
  family.norm_backward(a.grad_residual, x.grad_normed1, x.residual1, x.mean1, x.rstd1, w.norm1,
                       true);
}

Engine::Engine(Parameters& parameters, const EngineOptions& options)
    : state_(std::make_unique<State>(parameters, options)) {}
Engine::~Engine() = default;

LossSums Engine::forward_backward(const Batch& batch, uint64_t step) {
  State& s = *state_;
  TRAIN_SFT_CHECK(s.training != nullptr, "these parameters were made without gradients");
  if (batch.learned.empty()) return {};
  check(batch, s.config);
  Activations& a = *s.training;
  a.bind(batch.size());
  const bool dropout = s.options.dropout > 0;
  if (dropout) {
    s.row_keys.resize(batch.tokens.size());
    ops::dropout_row_keys(s.row_keys, s.options.seed, step, batch.cu_seqlens, batch.example_ids,
                          batch.positions);
  }
  s.forward(a, batch, dropout);
  const LossSums sums = s.loss(a, batch, true);
  s.backward(a, batch);
  return sums;
}

LossSums Engine::evaluate(const Batch& batch) {
  State& s = *state_;
  if (batch.learned.empty()) return {};
  check(batch, s.config);
  s.inference.bind(batch.size());
  s.forward(s.inference, batch, false);
  return s.loss(s.inference, batch, false);
}

at::Tensor Engine::logits(const Batch& batch) {
  State& s = *state_;
  TRAIN_SFT_CHECK(batch.size() > 0, "no tokens");
  check(batch, s.config);
  s.inference.bind(batch.size());
  s.forward(s.inference, batch, false);
  at::Tensor out = at::empty({batch.size(), s.config.vocab_size}, s.parameters.compute().options());
  ops::linear_forward(out, s.inference.final_normed, s.weights.head, {}, ops::WeightLayout::out_in);
  return out;
}

uint64_t Engine::arena_bytes() const {
  return state_->storage->bytes();
}

}  // namespace train_sft
