#include "train_sft/model/engine.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

#include "model/activations.h"
#include "model/batch_view.h"
#include "model/dropout_sites.h"
#include "model/family_ops.h"
#include "model/fp8_linears.h"
#include "model/graph_cache.h"
#include "model/rows.h"
#include "model/weights.h"
#include "train_sft/base/error.h"
#include "train_sft/ops/attention.h"
#include "train_sft/ops/cross_entropy.h"
#include "train_sft/ops/device_table.h"
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

// Places of sums on a device, and modes of its graphs.
constexpr uint32_t kTraining = 0, kEvaluation = 1, kEightBits = 2;
constexpr int64_t kSums = sizeof(ops::DeviceSums) / sizeof(double);

bool learns(const NormWeights& w) {
  return w.grad_weight.defined() || w.grad_bias.defined();
}

bool learns(const LinearWeights& w) {
  return w.grad_weight.defined() || w.grad_bias.defined() || w.lora.defined();
}

// For the time of a training micro-batch.
class Fp8Use {
 public:
  Fp8Use(FamilyOps& family, Fp8Linears* linears) : family_(family) { family_.use_fp8(linears); }
  ~Fp8Use() { family_.use_fp8(nullptr); }
  Fp8Use(const Fp8Use&) = delete;
  Fp8Use& operator=(const Fp8Use&) = delete;

 private:
  FamilyOps& family_;
};

template <typename F>
void or_out_of_memory(const F& work) {
  try {
    work();
  } catch (const c10::OutOfMemoryError& error) {
    throw ResourceError("the device's memory does not hold this micro-batch: {}",
                        error.what_without_backtrace());
  }
}

// The lowest layer that a gradient must reach; 0 when the embedding learns.
size_t first_trained_layer(const ModelWeights& weights) {
  if (weights.grad_embedding.defined() || weights.grad_position.defined()) return 0;
  size_t l = 0;
  while (l < weights.layers.size()) {
    const LayerWeights& w = weights.layers[l];
    if (learns(w.norm1) || learns(w.qkv) || learns(w.proj) || learns(w.norm2) || learns(w.up) ||
        learns(w.down) || learns(w.q_norm) || learns(w.k_norm))
      break;
    ++l;
  }
  return l;
}

// Gradients of each layer; of what stands outside the layers in the last place.
std::vector<uint64_t> gradient_bytes(const ParameterLayout& layout, int64_t n_layer) {
  std::vector<uint64_t> bytes(static_cast<size_t>(n_layer) + 1);
  for (const ParameterInfo& info : layout.parameters) {
    if (!info.trained()) continue;
    const auto place = static_cast<size_t>(info.layer >= 0 ? info.layer : n_layer);
    bytes[place] += sizeof(float) * static_cast<uint64_t>(info.numel);
  }
  return bytes;
}

}  // namespace

struct Engine::State {
  State(Parameters& p, const EngineOptions& o)
      : parameters(p),
        options(o),
        config(p.config()),
        weights(model_weights(p)),
        first_trained(first_trained_layer(weights)),
        layer_gradients(gradient_bytes(p.layout(), config.n_layer)),
        family(config, p.compute().scalar_type(), p.compute().device()),
        inputs(p.compute().device(), config.block_size, o.max_tokens),
        storage(std::make_shared<ArenaStorage>(o.max_arena_bytes, p.compute().device())),
        inference(config, p.training(), p.compute().scalar_type(), Activations::Purpose::inference,
                  false, Recompute::none, storage, o.loss_scratch) {
    TRAIN_SFT_CHECK(o.dropout >= 0 && o.dropout < 1, "dropout {}", o.dropout);
    const at::ScalarType dtype = p.compute().scalar_type();
    if (p.has_gradients())
      training =
          std::make_unique<Activations>(config, p.training(), dtype, Activations::Purpose::training,
                                        o.dropout > 0, o.recompute, storage, o.loss_scratch);
    if (!p.device().is_cpu()) {
      TRAIN_SFT_CHECK(!o.gives_way, "memory of a device is not given back in a step");
      device = ops::device_table(p.compute());
      sums = at::zeros({2, kSums}, at::TensorOptions().dtype(at::kDouble).device(p.device()));
      if (o.graphs) graphs = std::make_unique<GraphCache>(device);
    }
    if (o.fp8.on) {
      const std::vector<at::Tensor> numbered = number_fp8(weights, fp8_linears(config, o.fp8.bf16));
      if (!numbered.empty() && training) fp8 = std::make_unique<Fp8Linears>(numbered, o.fp8);
    }
    const int64_t most = device == nullptr ? o.max_tokens : (o.max_tokens + 15) / 16 * 16;
    if (most > 0) (training ? *training : inference).bind(most, most);
  }

  // Points the activations and `view` at this micro-batch.
  void prepare(Activations& a, const Batch& batch, const ViewOptions& wanted) {
    const void *arena = storage->storage_base(), *block = inputs.block();
    or_out_of_memory([&] { view = inputs.view(batch, wanted); });
    a.bind(view.size(), view.top_rows());
    if (graphs && (arena != storage->storage_base() || block != inputs.block())) graphs->clear();
  }
  // On a device: the work of a micro-batch, captured when it has been seen before. What is called
  // back between layers cannot be in a graph.
  void run(uint32_t mode, bool eager, const std::function<void()>& work);
  ops::DeviceSums* sums_of(uint32_t mode) const {
    if (device == nullptr) return nullptr;
    return static_cast<ops::DeviceSums*>(sums.data_ptr()) + mode;
  }
  LossSums wait_for_sums(uint32_t mode) const;

  // Whether layer l goes on with the learned rows alone after its attention.
  bool gathers(size_t l) const { return !view.all && l + 1 == weights.layers.size(); }
  std::span<const uint64_t> keys(size_t l) const {
    return gathers(l) ? view.top_keys : view.row_keys;
  }
  // grad through a dropout, into `dropped`; the gradient itself when nothing drops out.
  const at::Tensor& dropout_backward(const at::Tensor& dropped, const at::Tensor& grad, size_t l,
                                     uint32_t site) const;

  void forward(Activations& a, bool dropout) const;
  // below: the layer whose output this one receives; none: it stands in residual1 already.
  void attention_forward(const LayerActivations& x, const LayerActivations* below, size_t l) const;
  // Up to `up`: what stands before the activation.
  void ffn_hidden_forward(const Activations& a, const LayerActivations& x, size_t l,
                          bool dropout) const;
  void ffn_forward(const Activations& a, size_t l, bool dropout) const;
  void forward_again(const Activations& a, size_t l) const;
  LossSums loss(Activations& a, bool gradients, uint32_t mode) const;
  void backward(Activations& a, const LayerDone& layer_done) const;
  void ffn_backward(Activations& a, size_t l) const;
  void attention_backward(Activations& a, size_t l) const;

  Parameters& parameters;
  EngineOptions options;
  ModelConfig config;
  ModelWeights weights;
  size_t first_trained;  // layers below it have nothing to learn: no gradient goes there
  std::vector<uint64_t> layer_gradients;  // bytes
  FamilyOps family;
  BatchInputs inputs;
  BatchView view;
  std::shared_ptr<ArenaStorage> storage;
  Activations inference;
  std::unique_ptr<Activations> training;

  // Of a device.
  const ops::DeviceTable* device = nullptr;
  at::Tensor sums;  // [2, DeviceSums]: of training, of evaluation
  std::unique_ptr<GraphCache> graphs;
  std::unique_ptr<Fp8Linears> fp8;  // null: none
};

const at::Tensor& Engine::State::dropout_backward(const at::Tensor& dropped, const at::Tensor& grad,
                                                  size_t l, uint32_t site) const {
  if (options.dropout == 0) return grad;
  ops::dropout(dropped, grad, keys(l), site, options.dropout);
  return dropped;
}

void Engine::State::forward(Activations& a, bool dropout) const {
  const at::Tensor& x = a.layers.front().residual1;
  ops::embedding_forward(x, weights.embedding, weights.position, view.tokens, view.positions);
  if (dropout) ops::dropout(x, x, view.row_keys, kEmbeddingSite, options.dropout);
  for (size_t l = 0; l < a.layers.size(); ++l) {
    const LayerActivations& layer = a.layers[l];
    attention_forward(layer, l > 0 ? &a.layers[l - 1] : nullptr, l);
    if (gathers(l)) {
      gather_rows(a.top_mixed, layer.mixed, view.learned);
      gather_rows(a.top_residual, layer.residual1, view.learned);
    }
    ffn_forward(a, l, dropout);
  }
  const LayerActivations& last = a.layers.back();
  family.norm_forward(a.final_normed, a.final_residual, a.final_mean, a.final_rstd, last.residual2,
                      last.ffn_out, weights.final_norm);
}

void Engine::State::attention_forward(const LayerActivations& x, const LayerActivations* below,
                                      size_t l) const {
  const LayerWeights& w = weights.layers[l];
  if (below == nullptr) {
    family.norm_forward(x.normed1, {}, x.mean1, x.rstd1, x.residual1, {}, w.norm1);
  } else {
    family.norm_forward(x.normed1, x.residual1, x.mean1, x.rstd1, below->residual2, below->ffn_out,
                        w.norm1);
  }
  family.linear_forward(x.qkv, x.normed1, w.qkv, x.low_qkv);
  family.qk_norm_forward(x.qkv, x.qk_input, x.qk_rstd, w);
  family.rope_forward(x.qkv, view.positions);
  ops::attention_forward(x.mixed, x.lse, x.qkv, view.cu_seqlens, family.attention(),
                         view.max_seqlen);
}

void Engine::State::ffn_hidden_forward(const Activations& a, const LayerActivations& x, size_t l,
                                       bool dropout) const {
  const LayerWeights& w = weights.layers[l];
  const at::Tensor& mixed = gathers(l) ? a.top_mixed : x.mixed;
  const at::Tensor& residual = gathers(l) ? a.top_residual : x.residual1;
  family.linear_forward(x.attention_out, mixed, w.proj, x.low_proj);
  if (dropout)
    ops::dropout(x.attention_out, x.attention_out, keys(l), attention_site(l), options.dropout);
  family.norm_forward(x.normed2, x.residual2, x.mean2, x.rstd2, residual, x.attention_out, w.norm2);
  family.linear_forward(x.up, x.normed2, w.up, x.low_up);
}

void Engine::State::ffn_forward(const Activations& a, size_t l, bool dropout) const {
  const LayerActivations& x = a.layers[l];
  ffn_hidden_forward(a, x, l, dropout);
  family.activation_forward(x.activated, x.up);
  family.linear_forward(x.ffn_out, x.activated, weights.layers[l].down, x.low_down);
  if (dropout) ops::dropout(x.ffn_out, x.ffn_out, keys(l), ffn_site(l), options.dropout);
}

// Same inputs, same kernels, dropout keyed: the same bits as the first time.
void Engine::State::forward_again(const Activations& a, size_t l) const {
  const LayerActivations& x = a.backward_layers[l];
  attention_forward(x, nullptr, l);
  if (options.recompute == Recompute::block) ffn_hidden_forward(a, x, l, options.dropout > 0);
}

LossSums Engine::State::loss(Activations& a, bool gradients, uint32_t mode) const {
  const ops::CrossEntropySums sums = ops::linear_cross_entropy(
      gradients ? a.final_normed : at::Tensor(), gradients ? weights.grad_head : at::Tensor(),
      a.final_normed, weights.head, view.targets, view.loss_rows, view.weights, a.loss_scratch,
      sums_of(mode));
  return {sums.loss, sums.weight, sums.tokens, sums.correct};
}

void Engine::State::backward(Activations& a, const LayerDone& layer_done) const {
  family.norm_backward(view.all ? a.grad_residual : a.grad_top_residual, a.final_normed,
                       a.final_residual, a.final_mean, a.final_rstd, weights.final_norm, false);
  if (layer_done) layer_done(static_cast<int64_t>(a.layers.size()));
  uint64_t owed = 0;  // of the arena to gradients
  for (size_t l = a.layers.size(); l-- > first_trained;) {
    owed += layer_gradients[l];
    if (options.gives_way) owed -= std::min(owed, a.give_back(l, owed));
    if (a.recomputes(l)) forward_again(a, l);
    ffn_backward(a, l);
    attention_backward(a, l);
    if (layer_done) layer_done(static_cast<int64_t>(l));
  }
  if (!weights.grad_embedding.defined() && !weights.grad_position.defined()) return;
  if (options.dropout > 0)
    ops::dropout(a.grad_residual, a.grad_residual, view.row_keys, kEmbeddingSite, options.dropout);
  ops::embedding_backward(weights.grad_embedding, weights.grad_position, a.grad_residual,
                          view.tokens, view.positions, view.token_order, view.position_order);
}

// From the gradient of the layer's output to those of the residual stream below its feed-forward
// part and of attention's projection. The inputs of products with something to learn, which the
// forward did not keep, come from the same kernels on the same values: they have the same bits.
void Engine::State::ffn_backward(Activations& a, size_t l) const {
  const LayerWeights& w = weights.layers[l];
  const LayerActivations& x = a.backward_layers[l];
  const at::Tensor& residual = gathers(l) ? a.grad_top_residual : a.grad_residual;
  const at::Tensor& grad_ffn = dropout_backward(x.grad_ffn_out, residual, l, ffn_site(l));
  if (learns(w.down)) family.activation_forward(x.activated_again, x.up);
  family.linear_backward(x.grad_activated, grad_ffn, x.activated_again, w.down, x.low_down);
  const at::Tensor& grad_up = family.activation_backward(x.grad_activated, x.up);
  if (learns(w.up))
    family.norm_forward(x.normed2_again, {}, x.mean2, x.rstd2, x.residual2, {}, w.norm2);
  family.linear_backward(x.grad_normed2, grad_up, x.normed2_again, w.up, x.low_up);
  family.norm_backward(residual, x.grad_normed2, x.residual2, x.mean2, x.rstd2, w.norm2, true);

  const at::Tensor& grad_proj =
      dropout_backward(x.grad_attention_out, residual, l, attention_site(l));
  family.linear_backward(gathers(l) ? a.grad_top_mixed : x.grad_mixed, grad_proj,
                         gathers(l) ? a.top_mixed : x.mixed, w.proj, x.low_proj);
}

void Engine::State::attention_backward(Activations& a, size_t l) const {
  const LayerWeights& w = weights.layers[l];
  const LayerActivations& x = a.backward_layers[l];
  if (gathers(l)) {
    scatter_rows(x.grad_mixed, a.grad_top_mixed, view.learned);
    scatter_rows(a.grad_residual, a.grad_top_residual, view.learned);
  }
  ops::attention_backward(x.grad_qkv, x.grad_mixed, x.mixed, x.lse, x.qkv, view.cu_seqlens,
                          family.attention(), view.max_seqlen);
  family.rope_backward(x.grad_qkv, view.positions);
  family.qk_norm_backward(x.grad_qkv, x.qk_input, x.qk_rstd, w);
  if (learns(w.qkv))
    family.norm_forward(x.normed1_again, {}, x.mean1, x.rstd1, x.residual1, {}, w.norm1);
  family.linear_backward(x.grad_normed1, x.grad_qkv, x.normed1_again, w.qkv, x.low_qkv);
  family.norm_backward(a.grad_residual, x.grad_normed1, x.residual1, x.mean1, x.rstd1, w.norm1,
                       true);
}

Engine::Engine(Parameters& parameters, const EngineOptions& options)
    : state_(std::make_unique<State>(parameters, options)) {}
Engine::~Engine() = default;

void Engine::State::run(uint32_t mode, bool eager, const std::function<void()>& work) {
  const int64_t moves = fp8 ? fp8->moves() : 0;
  or_out_of_memory([&] {
    if (graphs && !eager)
      graphs->run({inputs.shape(), mode}, work);
    else
      work();
  });
  if (graphs && fp8 && fp8->moves() != moves) graphs->clear();
}

LossSums Engine::State::wait_for_sums(uint32_t mode) const {
  ops::DeviceSums got;
  device->download_end(device->download_begin(sums_of(mode), sizeof(got)), &got, sizeof(got));
  return {got.loss, got.weight, static_cast<int64_t>(got.tokens),
          static_cast<int64_t>(got.correct)};
}

LossSums Engine::forward_backward(const Batch& batch, uint64_t step, const LayerDone& layer_done) {
  State& s = *state_;
  TRAIN_SFT_CHECK(s.training != nullptr, "these parameters were made without gradients");
  if (batch.learned.empty()) return {};
  check(batch, s.config);
  Activations& a = *s.training;
  const bool dropout = s.options.dropout > 0;
  s.prepare(a, batch, {.backward = true, .dropout = dropout, .seed = s.options.seed, .step = step});
  LossSums sums{.weight = batch.weight_sum(), .tokens = static_cast<int64_t>(batch.learned.size())};
  const Fp8Use use(s.family, s.fp8.get());
  const auto work = [&] {
    s.forward(a, dropout);
    const LossSums computed = s.loss(a, true, kTraining);
    if (s.device == nullptr) sums = computed;
    s.backward(a, layer_done);
  };
  if (s.device == nullptr)
    work();
  else
    s.run(s.fp8 ? kEightBits + s.fp8->kind() : kTraining, layer_done != nullptr, work);
  if (s.fp8) s.fp8->end_micro_step();
  return sums;
}

LossSums Engine::evaluate(const Batch& batch) {
  State& s = *state_;
  if (batch.learned.empty()) return {};
  check(batch, s.config);
  s.prepare(s.inference, batch, {});
  if (s.device == nullptr) {
    s.forward(s.inference, false);
    return s.loss(s.inference, false, kEvaluation);
  }
  s.device->zero(s.sums[kEvaluation]);
  s.run(kEvaluation, false, [&] {
    s.forward(s.inference, false);
    s.loss(s.inference, false, kEvaluation);
  });
  return s.wait_for_sums(kEvaluation);
}

at::Tensor Engine::logits(const Batch& batch) {
  State& s = *state_;
  TRAIN_SFT_CHECK(batch.size() > 0, "no tokens");
  check(batch, s.config);
  s.prepare(s.inference, batch, {.every_row = true});
  s.forward(s.inference, false);
  at::Tensor out =
      at::empty({s.view.size(), s.config.vocab_size}, s.parameters.compute().options());
  ops::linear_forward(out, s.inference.final_normed, s.weights.head, {}, ops::WeightLayout::out_in);
  return out.narrow(0, 0, batch.size());  // without padding
}

uint64_t Engine::planned_arena_bytes(const ModelConfig& config, at::ScalarType compute,
                                     bool dropout, Recompute recompute, int64_t tokens,
                                     const Training& training, int64_t loss_scratch) {
  Activations activations(config, training, compute, Activations::Purpose::training, dropout,
                          recompute, nullptr, loss_scratch);
  return activations.planned_bytes(tokens);
}

// The gradients outside the layers are there with the loss. Those of the layers come while what
// they take the place of goes; at the lowest layers there is more to go than comes.
uint64_t Engine::planned_gradient_bytes(const ModelConfig& config, at::ScalarType compute,
                                        bool dropout, Recompute recompute, int64_t tokens,
                                        const Training& training) {
  Activations activations(config, training, compute, Activations::Purpose::training, dropout,
                          recompute, nullptr, ops::kLossScratchBytes);
  activations.planned_bytes(tokens);
  const std::vector<uint64_t> of_layer =
      gradient_bytes(parameter_layout(config, training), config.n_layer);
  uint64_t come = 0, more = 0;
  for (size_t l = activations.layers.size(); l-- > 0;) {
    come += of_layer[l];
    const uint64_t gone = std::min(come, activations.finished_bytes(l));
    more = std::max(more, come - gone);
  }
  return of_layer.back() + more;
}

const at::Tensor& Engine::device_sums() const {
  return state_->sums;
}

LossSums Engine::take_sums() {
  State& s = *state_;
  if (s.device == nullptr) return {};
  LossSums sums;
  or_out_of_memory([&] { sums = s.wait_for_sums(kTraining); });
  s.device->zero(s.sums[kTraining]);
  return sums;
}

void Engine::drop_sums() {
  if (state_->device != nullptr) state_->device->zero(state_->sums[kTraining]);
}

void Engine::end_step(bool weights_known) {
  if (state_->fp8) state_->fp8->end_step(weights_known);
}

std::vector<WeightAmax> Engine::weight_amax() const {
  return state_->fp8 ? state_->fp8->weight_amax() : std::vector<WeightAmax>();
}

at::Tensor Engine::fp8_amax() const {
  return state_->fp8 ? state_->fp8->amax() : at::Tensor();
}

std::vector<std::pair<std::string, at::Tensor>> Engine::fp8_state() const {
  if (!state_->fp8) return {};
  return state_->fp8->state();
}

void Engine::restored_fp8() {
  if (state_->fp8) state_->fp8->restored();
}

void Engine::release_memory() {
  State& s = *state_;
  if (s.graphs) s.graphs->clear();
  s.storage->release();
  s.inference.forget();
  if (s.training) s.training->forget();
}

bool Engine::gives_way() const {
  return state_->options.gives_way;
}

uint64_t Engine::arena_bytes() const {
  return state_->storage->bytes();
}

}  // namespace train_sft
