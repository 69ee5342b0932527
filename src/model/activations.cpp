#include "model/activations.h"

#include <algorithm>
#include <string>
#include <utility>

#include "train_sft/ops/cross_entropy.h"

namespace train_sft {
namespace {

// The moments of a layer's forward; its backward passes them in reverse, after those of what it
// computes again.
enum Phase { norm1, qkv, attention, proj, norm2, up, activation, down, phases };

}  // namespace

class Activations::Moments {
 public:
  Moments(int n_layer, bool training, Recompute recompute)
      : n_layer_(n_layer), training_(training), again_(recompute == Recompute::none ? 0 : phases) {}
  int forward(int layer, Phase phase) const { return 1 + layer * phases + phase; }
  int final_norm() const { return forward(n_layer_, norm1); }
  int loss() const { return final_norm() + 1; }
  int final_norm_backward() const { return loss() + 1; }
  int recompute(int layer, Phase phase) const { return before_backward(layer) + phase; }
  int backward(int layer, Phase phase) const {
    return before_backward(layer) + again_ + (down - phase);
  }
  int last_before_backward(int layer) const { return before_backward(layer) - 1; }
  int embedding_backward() const { return backward(-1, down); }
  // The last use of something that forward needs up to `use`, and the backward again.
  int last(int use, int backward_use) const { return training_ ? backward_use : use; }
  bool training() const { return training_; }

 private:
  int before_backward(int layer) const {
    return final_norm_backward() + 1 + (n_layer_ - 1 - layer) * (again_ + phases);
  }

  int n_layer_;
  bool training_;
  int again_;  // moments of a recomputation
};

namespace {

int64_t loss_chunk(at::ScalarType dtype, const ModelConfig& config, int64_t tokens,
                   int64_t scratch_bytes) {
  const int64_t row =
      ops::linear_cross_entropy_scratch_bytes(dtype, 1, config.n_embd, config.vocab_size);
  return std::clamp<int64_t>(tokens, 1, std::max<int64_t>(16, scratch_bytes / row));
}

enum class Rows { all, learned };

ShapeOf shape_of(Rows rows, int64_t columns) {
  return [rows, columns](int64_t tokens, int64_t learned) {
    return BufferShape{rows == Rows::all ? tokens : learned, columns};
  };
}

class LayerPlanner {
 public:
  LayerPlanner(ArenaPlan& plan, const ModelConfig& config, const LowRanks& low_ranks,
               at::ScalarType compute, Activations::Moments moments, int layer)
      : plan_(plan),
        dtype_(compute),
        sum_dtype_(compute == at::kDouble ? at::kDouble : at::kFloat),
        moments_(moments),
        layer_(layer),
        C_(config.n_embd),
        A_(config.attention_width()),
        F_(config.ffn()),
        heads_(config.n_head),
        low_ranks_(low_ranks),
        qkv_width_((config.n_head + 2 * config.kv_heads()) * config.head_dim()),
        qk_heads_(config.qk_norm && moments.training() ? config.n_head + config.kv_heads() : 0),
        head_dim_(config.head_dim()),
        rms_(config.family == Family::llama),
        above_(layer + 1 == config.n_layer ? Rows::learned : Rows::all) {}

  // The forward pass, of which `recompute` is not kept for the backward.
  void forward(LayerActivations& a, Recompute recompute) {
    const auto last = [&](int use, Phase p) { return until(Pass::forward, use, p); };
    a.residual1 = matrix("residual1", Rows::all, C_,
                         layer_ == 0 ? 0 : moments_.forward(layer_, norm1), last(norm2, norm1));
    attention_half(a, recompute == Recompute::none ? Pass::forward : Pass::dropped);
    const Pass pass = recompute == Recompute::block ? Pass::dropped : Pass::forward;
    feed_forward_half(a, pass);
    a.activated = matrix("activated", above_, F_, moments_.forward(layer_, activation),
                         moments_.forward(layer_, down));
    a.ffn_out = matrix("ffn_out", above_, C_, at(pass, down), moments_.forward(layer_ + 1, norm1));
    // Kept, since the down projection is not computed again.
    low_rank(a.low_down.value, above_, low_ranks_.down, at(pass, down), last(down, down));
  }

  // What is computed again before the backward.
  void again(LayerActivations& a, Recompute recompute) {
    attention_half(a, Pass::again);
    if (recompute == Recompute::block) feed_forward_half(a, Pass::again);
  }

  void backward(LayerActivations& a, bool dropout) {
    const auto b = [&](Phase p) { return moments_.backward(layer_, p); };
    a.activated_again = matrix("activated_again", above_, F_, b(down), b(down));
    a.normed2_again = matrix("normed2_again", above_, C_, b(up), b(up));
    a.normed1_again = matrix("normed1_again", Rows::all, C_, b(qkv), b(qkv));
    if (dropout) a.grad_ffn_out = matrix("grad_ffn_out", above_, C_, b(down), b(down));
    a.grad_activated = matrix("grad_activated", above_, F_, b(down), b(up));
    a.grad_normed2 = matrix("grad_normed2", above_, C_, b(up), b(norm2));
    if (dropout) a.grad_attention_out = matrix("grad_attention_out", above_, C_, b(proj), b(proj));
    a.grad_mixed = matrix("grad_mixed", Rows::all, A_, b(proj), b(attention));
    a.grad_qkv = matrix("grad_qkv", Rows::all, qkv_width_, b(attention), b(qkv));
    a.grad_normed1 = matrix("grad_normed1", Rows::all, C_, b(qkv), b(norm1));
    low_rank(a.low_qkv.gradient, Rows::all, low_ranks_.qkv, b(qkv), b(qkv));
    low_rank(a.low_proj.gradient, above_, low_ranks_.proj, b(proj), b(proj));
    low_rank(a.low_up.gradient, above_, low_ranks_.up, b(up), b(up));
    low_rank(a.low_down.gradient, above_, low_ranks_.down, b(down), b(down));
  }

 private:
  // A forward whose results the backward needs, one whose results it does not, and its repetition.
  enum class Pass { forward, dropped, again };

  int at(Pass pass, int phase) const {
    const auto p = static_cast<Phase>(phase);
    return pass == Pass::again ? moments_.recompute(layer_, p) : moments_.forward(layer_, p);
  }
  // The last use of something needed up to `use` of its pass, and in the backward of `p`.
  int until(Pass pass, int use, Phase p) const {
    if (pass == Pass::dropped) return at(pass, use);
    return moments_.last(at(pass, use), moments_.backward(layer_, p));
  }

  void attention_half(LayerActivations& a, Pass pass) {
    const auto f = [&](Phase p) { return at(pass, p); };
    const auto last = [&](int use, Phase p) { return until(pass, use, p); };
    if (!rms_) a.mean1 = sums("mean1", Rows::all, f(norm1), last(norm1, norm1));
    a.rstd1 = sums("rstd1", Rows::all, f(norm1), last(norm1, norm1));
    a.normed1 = matrix("normed1", Rows::all, C_, f(norm1), f(qkv));
    a.qkv = matrix("qkv", Rows::all, qkv_width_, f(qkv), last(attention, attention));
    if (qk_heads_ > 0) {
      a.qk_input = matrix("qk_input", Rows::all, qk_heads_ * head_dim_, f(qkv), last(qkv, qkv));
      a.qk_rstd =
          plan_.add("qk_rstd", sum_dtype_, shape_of(Rows::all, qk_heads_), f(qkv), last(qkv, qkv));
    }
    a.mixed = matrix("mixed", Rows::all, A_, f(attention), last(proj, attention));
    a.lse = plan_.add(
        "lse", sum_dtype_,
        [h = heads_](int64_t n, int64_t) {
          return BufferShape{h, n};
        },
        f(attention), last(attention, attention));
    low_rank(a.low_qkv.value, Rows::all, low_ranks_.qkv, f(qkv), last(qkv, qkv));
  }

  // Attention's projection and the feed-forward, up to its activation.
  void feed_forward_half(LayerActivations& a, Pass pass) {
    const auto f = [&](Phase p) { return at(pass, p); };
    const auto last = [&](int use, Phase p) { return until(pass, use, p); };
    a.attention_out = matrix("attention_out", above_, C_, f(proj), f(norm2));
    // Of the forward up to the next layer, or the final norm.
    a.residual2 = matrix("residual2", above_, C_, f(norm2), last(phases, norm2));
    if (!rms_) a.mean2 = sums("mean2", above_, f(norm2), last(norm2, norm2));
    a.rstd2 = sums("rstd2", above_, f(norm2), last(norm2, norm2));
    a.normed2 = matrix("normed2", above_, C_, f(norm2), f(up));
    a.up = matrix("up", above_, rms_ ? 2 * F_ : F_, f(up), last(activation, up));
    low_rank(a.low_proj.value, above_, low_ranks_.proj, f(proj), last(proj, proj));
    low_rank(a.low_up.value, above_, low_ranks_.up, f(up), last(up, up));
  }

  at::Tensor matrix(const char* name, Rows rows, int64_t columns, int first, int last) {
    return plan_.add(name, dtype_, shape_of(rows, columns), first, last);
  }
  void low_rank(at::Tensor& tensor, Rows rows, int64_t columns, int first, int last) {
    if (columns > 0) tensor = matrix("low_rank", rows, columns, first, last);
  }
  at::Tensor sums(const char* name, Rows rows, int first, int last) {
    return plan_.add(name, sum_dtype_, shape_of(rows, 0), first, last);
  }

  ArenaPlan& plan_;
  at::ScalarType dtype_, sum_dtype_;
  Activations::Moments moments_;
  int layer_;
  int64_t C_, A_, F_, heads_;
  LowRanks low_ranks_;
  int64_t qkv_width_;
  int64_t qk_heads_, head_dim_;  // heads whose input is kept for the backward of qk_norm
  bool rms_;
  Rows above_;  // attention: of the last layer only what the loss needs
};

}  // namespace

Activations::Activations(const ModelConfig& config, const Training& adapters,
                         at::ScalarType compute, Purpose purpose, bool dropout, Recompute recompute,
                         std::shared_ptr<ArenaStorage> storage, int64_t loss_scratch_bytes)
    : recompute_(purpose == Purpose::training ? recompute : Recompute::none),
      plan_(std::move(storage)) {
  const bool training = purpose == Purpose::training;
  const Moments moments(static_cast<int>(config.n_layer), training, recompute_);
  layers.resize(static_cast<size_t>(config.n_layer));
  const std::vector<LowRanks> ranks = low_ranks(config, adapters);
  for (size_t l = 0; l < layers.size(); ++l) {
    LayerPlanner planner(plan_, config, ranks[l], compute, moments, static_cast<int>(l));
    planner.forward(layers[l], recomputes(l) ? recompute_ : Recompute::none);
    if (!training) continue;
    backward_layers.push_back(layers[l]);
    if (recomputes(l)) planner.again(backward_layers[l], recompute_);
    planner.backward(backward_layers[l], dropout);
    before_.push_back(moments.last_before_backward(static_cast<int>(l)));
  }
  plan_top(config, compute, moments, training, loss_scratch_bytes);
}

void Activations::plan_top(const ModelConfig& config, at::ScalarType compute,
                           const Moments& moments, bool training,
                           int64_t loss_scratch_bytes) {
  const ShapeOf matrix = shape_of(Rows::learned, config.n_embd);
  const ShapeOf mixed = shape_of(Rows::learned, config.attention_width());
  const ShapeOf sums = shape_of(Rows::learned, 0);
  const at::ScalarType sum_dtype = compute == at::kDouble ? at::kDouble : at::kFloat;
  const int last_layer = static_cast<int>(config.n_layer) - 1;
  const int gathered = moments.forward(last_layer, proj);
  const int scattered = moments.backward(last_layer, proj);
  top_mixed = plan_.add("top_mixed", compute, mixed, gathered, moments.last(gathered, scattered));
  top_residual =
      plan_.add("top_residual", compute, matrix, gathered, moments.forward(last_layer, norm2));
  const int first = moments.final_norm();
  const int last = moments.last(first, moments.final_norm_backward());
  final_residual = plan_.add("final_residual", compute, matrix, first, last);
  final_mean = plan_.add("final_mean", sum_dtype, sums, first, last);
  final_rstd = plan_.add("final_rstd", sum_dtype, sums, first, last);
  final_normed = plan_.add("final_normed", compute, matrix, first,
                           moments.last(moments.loss(), moments.final_norm_backward()));
  loss_scratch = plan_.add(
      "loss_scratch", at::kByte,
      [compute, config, loss_scratch_bytes](int64_t, int64_t learned) {
        const int64_t chunk = loss_chunk(compute, config, learned, loss_scratch_bytes);
        return BufferShape{ops::linear_cross_entropy_scratch_bytes(compute, chunk, config.n_embd,
                                                                   config.vocab_size)};
      },
      moments.loss(), moments.loss());
  if (!training) return;
  const int back = moments.final_norm_backward();
  grad_top_residual = plan_.add("grad_top_residual", compute, matrix, back, scattered);
  grad_top_mixed = plan_.add("grad_top_mixed", compute, mixed, scattered, scattered);
  grad_residual = plan_.add("grad_residual", compute, shape_of(Rows::all, config.n_embd), back,
                            moments.embedding_backward());
}

}  // namespace train_sft
