// The table of the fake device: the CPU's ops, queued.
#include <ATen/ops/empty.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <span>

#include "model/rows.h"
#include "ops/gemm.h"
#include "support/fake_device_memory.h"
#include "train_sft/base/error.h"
#include "train_sft/ops/adamw.h"
#include "train_sft/ops/cross_entropy.h"
#include "train_sft/ops/dropout.h"
#include "train_sft/ops/embedding.h"
#include "train_sft/ops/fp8_linear.h"
#include "train_sft/ops/gelu.h"
#include "train_sft/ops/layer_norm.h"
#include "train_sft/ops/qk_norm.h"
#include "train_sft/ops/rms_norm.h"
#include "train_sft/ops/rope.h"
#include "train_sft/ops/swiglu.h"

namespace train_sft::fake_device {
namespace {

using at::Tensor;
using ops::AttentionShape;

struct Graph {
  std::vector<std::function<void()>> work;
};

template <typename T>
std::span<const T> all_of(const T* data, int64_t count) {
  return {data, static_cast<size_t>(count)};
}

// Of attention's backward, as a kernel has it: allocated by the first call of a size.
Tensor& scratch() {
  static Tensor scratch;
  return scratch;
}
void need_scratch(int64_t bytes) {
  if (scratch().defined() && scratch().numel() >= bytes) return;
  scratch() = Tensor();
  scratch() = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(kDevice));
}

// Queues f on host aliases of the tensors.
template <typename F, typename... Tensors>
void queue(F f, const Tensors&... tensors) {
  submit([f, ... t = host_alias(tensors)] { f(t...); });
}

void add_device_entries(ops::DeviceTable& t) {
  t.memory = [](ops::DeviceMemory* out) {
    const State& s = state();
    const auto held = static_cast<uint64_t>(s.counts.bytes);
    const uint64_t total = s.limit > 0 ? static_cast<uint64_t>(s.limit) : uint64_t{1} << 40;
    *out = {total - held, total, held, static_cast<uint64_t>(s.counts.peak_bytes)};
  };
  t.synchronize = [] {
    not_in_a_capture("a wait");
    ++state().counts.waits;
    flush();
  };
  t.upload = [](void* device, const void* host, uint64_t bytes) {
    not_in_a_capture("an upload");
    ++state().counts.uploads;
    const auto* begin = static_cast<const char*>(host);
    submit([device, copy = std::vector<char>(begin, begin + bytes)] {
      std::memcpy(device, copy.data(), copy.size());
    });
  };
  struct Ticket {
    std::shared_ptr<std::vector<char>> bytes;
    uint64_t queued = 0;  // with this copy
  };
  static std::map<uint64_t, Ticket> tickets;
  static uint64_t next_ticket = 0;
  t.download_begin = [](const void* device, uint64_t bytes) {
    not_in_a_capture("a download");
    TRAIN_SFT_CHECK(bytes <= 4096 && tickets.size() < 64, "{} bytes, {} tickets", bytes,
                    tickets.size());
    auto to = std::make_shared<std::vector<char>>(bytes);
    submit([device, to] { std::memcpy(to->data(), device, to->size()); });
    tickets[++next_ticket] = {std::move(to), state().queued()};
    return next_ticket;
  };
  t.download_end = [](uint64_t ticket, void* host, uint64_t bytes) {
    not_in_a_capture("a wait");
    wait_for(tickets.at(ticket).queued);
    const auto from = tickets.at(ticket).bytes;
    TRAIN_SFT_CHECK(from->size() == bytes, "{} bytes of {}", bytes, from->size());
    std::memcpy(host, from->data(), bytes);
    tickets.erase(ticket);
  };
  t.set_deterministic = [](bool) {};
}

void add_graph_entries(ops::DeviceTable& t) {
  t.graph_begin = [] {
    State& s = state();
    ++s.counts.captures;
    TORCH_CHECK(!s.capturing, "a capture in a capture");
    TORCH_CHECK(!s.capture.now(), "the fake device cannot capture");
    s.capturing = true;
    s.capture_broken = false;
    s.recorded.clear();
  };
  t.graph_end = []() -> void* {
    State& s = state();
    TORCH_CHECK(s.capturing && !s.capture_broken, "the capture was broken");
    s.capturing = false;
    ++s.counts.graphs;
    return new Graph{std::move(s.recorded)};
  };
  t.graph_abort = [] {
    state().capturing = false;
    state().recorded.clear();
  };
  t.graph_replay = [](void* graph) {
    State& s = state();
    TORCH_CHECK(!s.replay.now(), "the fake device cannot replay");
    ++s.counts.replays;
    const auto& work = static_cast<Graph*>(graph)->work;
    s.queue.insert(s.queue.end(), work.begin(), work.end());
  };
  t.graph_destroy = [](void* graph) {
    --state().counts.graphs;
    delete static_cast<Graph*>(graph);
  };
}

void add_row_entries(ops::DeviceTable& t) {
  t.zero = [](const Tensor& tensor) { queue([](const Tensor& x) { x.zero_(); }, tensor); };
  t.gather_rows = [](const Tensor& out, const Tensor& in, const int32_t* rows, int64_t n) {
    queue([=](auto& o, auto& i) { gather_rows(o, i, all_of(rows, n)); }, out, in);
  };
  t.scatter_rows = [](const Tensor& out, const Tensor& in, const int32_t* rows, int64_t n) {
    queue([=](auto& o, auto& i) { scatter_rows(o, i, all_of(rows, n)); }, out, in);
  };
  t.embedding_forward = [](const Tensor& out, const Tensor& table, const Tensor& positions_table,
                           const int32_t* tokens, const int32_t* positions) {
    queue(
        [=](auto& o, auto& e, auto& p) {
          ops::embedding_forward(o, e, p, all_of(tokens, o.size(0)), all_of(positions, o.size(0)));
        },
        out, table, positions_table);
  };
  t.embedding_backward = [](const Tensor& grad_table, const Tensor& grad_out,
                            const int32_t* indices, const int32_t* order) {
    queue(
        [=](auto& to, auto& from) {
          const int64_t n = from.size(0);
          // The order is what a kernel relies on: sorted, each row once.
          for (int64_t i = 1; i < n; ++i) {
            const int32_t before = order[i - 1], here = order[i];
            TRAIN_SFT_CHECK(indices[before] < indices[here] ||
                                (indices[before] == indices[here] && before < here),
                            "order falls at {}", i);
          }
          ops::embedding_backward(to, {}, from, all_of(indices, n), {});
        },
        grad_table, grad_out);
  };
  t.dropout = [](const Tensor& out, const Tensor& input, const uint64_t* keys, uint32_t site,
                 double p) {
    queue([=](auto& o, auto& i) { ops::dropout(o, i, all_of(keys, o.size(0)), site, p); }, out,
          input);
  };
}

void add_norm_entries(ops::DeviceTable& t) {
  t.layer_norm_forward = [](const Tensor& normed, const Tensor& residual_out, const Tensor& mean,
                            const Tensor& rstd, const Tensor& residual, const Tensor& delta,
                            const Tensor& weight, const Tensor& bias, double eps) {
    queue([=](auto&... x) { ops::layer_norm_forward(x..., eps); }, normed, residual_out, mean, rstd,
          residual, delta, weight, bias);
  };
  t.layer_norm_backward = [](const Tensor& grad_input, const Tensor& grad_weight,
                             const Tensor& grad_bias, const Tensor& grad_normed,
                             const Tensor& input, const Tensor& mean, const Tensor& rstd,
                             const Tensor& weight, bool accumulate) {
    queue([=](auto&... x) { ops::layer_norm_backward(x..., accumulate); }, grad_input, grad_weight,
          grad_bias, grad_normed, input, mean, rstd, weight);
  };
  t.rms_norm_forward = [](const Tensor& normed, const Tensor& residual_out, const Tensor& rstd,
                          const Tensor& residual, const Tensor& delta, const Tensor& weight,
                          double eps) {
    queue([=](auto&... x) { ops::rms_norm_forward(x..., eps); }, normed, residual_out, rstd,
          residual, delta, weight);
  };
  t.rms_norm_backward = [](const Tensor& grad_input, const Tensor& grad_weight,
                           const Tensor& grad_normed, const Tensor& input, const Tensor& rstd,
                           const Tensor& weight, bool accumulate) {
    queue([=](auto&... x) { ops::rms_norm_backward(x..., accumulate); }, grad_input, grad_weight,
          grad_normed, input, rstd, weight);
  };
  t.qk_norm_forward = [](const Tensor& qkv, const Tensor& input, const Tensor& rstd,
                         const Tensor& q_weight, const Tensor& k_weight, double eps,
                         const AttentionShape& shape) {
    queue([=](auto&... x) { ops::qk_norm_forward(x..., eps, shape); }, qkv, input, rstd, q_weight,
          k_weight);
  };
  t.qk_norm_backward = [](const Tensor& grad_qkv, const Tensor& grad_q_weight,
                          const Tensor& grad_k_weight, const Tensor& input, const Tensor& rstd,
                          const Tensor& q_weight, const Tensor& k_weight,
                          const AttentionShape& shape) {
    queue([=](auto&... x) { ops::qk_norm_backward(x..., shape); }, grad_qkv, grad_q_weight,
          grad_k_weight, input, rstd, q_weight, k_weight);
  };
  t.rope = [](const Tensor& qkv, const Tensor& cosines, const Tensor& sines,
              const int32_t* positions, const AttentionShape& shape, bool backward) {
    queue(
        [=](auto& x, auto& c, auto& s) {
          (backward ? ops::rope_backward : ops::rope_forward)(x, c, s, all_of(positions, x.size(0)),
                                                              shape);
        },
        qkv, cosines, sines);
  };
}

void check_documents(std::span<const int32_t> limits, int64_t max_seqlen) {
  for (size_t d = 1; d < limits.size(); ++d)
    TRAIN_SFT_CHECK(limits[d] - limits[d - 1] <= max_seqlen, "a document longer than {}",
                    max_seqlen);
}

void add_attention_entries(ops::DeviceTable& t) {
  t.attention_forward = [](const Tensor& out, const Tensor& lse, const Tensor& qkv,
                           const ops::DeviceDocuments& d, const AttentionShape& shape) {
    queue(
        [=](auto&... x) {
          check_documents(all_of(d.cu_seqlens, d.count + 1), d.max_seqlen);
          ops::attention_forward(x..., all_of(d.cu_seqlens, d.count + 1), shape);
        },
        out, lse, qkv);
  };
  t.attention_backward = [](const Tensor& grad_qkv, const Tensor& grad_out, const Tensor& out,
                            const Tensor& lse, const Tensor& qkv, const ops::DeviceDocuments& d,
                            const AttentionShape& shape) {
    need_scratch(static_cast<int64_t>(out.nbytes()));
    queue(
        [=](auto&... x) {
          ops::attention_backward(x..., all_of(d.cu_seqlens, d.count + 1), shape);
        },
        grad_qkv, grad_out, out, lse, qkv);
  };
  t.gelu_forward = [](const Tensor& out, const Tensor& input) {
    queue(&ops::gelu_forward, out, input);
  };
  t.gelu_backward = [](const Tensor& grad_input, const Tensor& grad_out, const Tensor& input) {
    queue(&ops::gelu_backward, grad_input, grad_out, input);
  };
  t.swiglu_forward = [](const Tensor& out, const Tensor& gate_up) {
    queue(&ops::swiglu_forward, out, gate_up);
  };
  t.swiglu_backward = [](const Tensor& grad_gate_up, const Tensor& grad_out,
                         const Tensor& gate_up) {
    queue(&ops::swiglu_backward, grad_gate_up, grad_out, gate_up);
  };
}

template <typename T, typename Out>
void product(const Tensor& out, const Tensor& a, bool transpose_a, const Tensor& b,
             bool transpose_b, double alpha, const Tensor& bias, bool accumulate) {
  const int64_t M = out.size(0), N = out.size(1), K = a.size(transpose_a ? 0 : 1);
  TRAIN_SFT_CHECK(b.size(transpose_b ? 1 : 0) == K && b.size(transpose_b ? 0 : 1) == N &&
                      a.size(transpose_a ? 1 : 0) == M,
                  "[{}, {}] = {} products", M, N, K);
  std::vector<Out> result(static_cast<size_t>(M * N));
  ops::gemm<T, Out>(result.data(), N, {M, N, K}, {a.const_data_ptr<T>(), a.stride(0), transpose_a},
                    {b.const_data_ptr<T>(), b.stride(0), transpose_b},
                    bias.defined() ? bias.const_data_ptr<T>() : nullptr, false);
  for (int64_t m = 0; m < M; ++m) {
    Out* row = out.mutable_data_ptr<Out>() + m * out.stride(0);
    for (int64_t n = 0; n < N; ++n) {
      const auto value = static_cast<double>(result[static_cast<size_t>(m * N + n)]) * alpha;
      row[n] = static_cast<Out>(accumulate ? static_cast<double>(row[n]) + value : value);
    }
  }
}

void add_product_entries(ops::DeviceTable& t) {
  t.gemm = [](const Tensor& out, const Tensor& a, bool ta, const Tensor& b, bool tb, double alpha,
              const Tensor& bias, bool accumulate) {
    queue(
        [=](auto& o, auto& x, auto& y, auto& bias_) {
          ops::for_dtype(x.scalar_type(), [&]<typename T>() {
            if (o.scalar_type() == x.scalar_type())
              product<T, T>(o, x, ta, y, tb, alpha, bias_, accumulate);
            else
              product<T, ops::Accumulate<T>>(o, x, ta, y, tb, alpha, bias_, accumulate);
          });
        },
        out, a, b, bias);
  };
  t.linear_backward_bias = [](const Tensor& grad_bias, const Tensor& grad_out) {
    queue(&ops::linear_backward_bias, grad_bias, grad_out);
  };
  t.linear_cross_entropy = [](ops::DeviceSums* sums, const Tensor& grad_hidden,
                              const Tensor& grad_weight, const Tensor& hidden, const Tensor& weight,
                              const int32_t* targets, const float* weights, const Tensor& scratch) {
    queue(
        [=](auto& gh, auto& gw, auto& h, auto& w, auto& room) {
          std::vector<int32_t> rows(static_cast<size_t>(h.size(0)));
          std::iota(rows.begin(), rows.end(), 0);
          const ops::CrossEntropySums added = ops::linear_cross_entropy(
              gh, gw, h, w, all_of(targets, h.size(0)), rows, all_of(weights, h.size(0)), room);
          sums->loss += added.loss;
          sums->weight += added.weight;
          sums->tokens += static_cast<double>(added.tokens);
          sums->correct += static_cast<double>(added.correct);
        },
        grad_hidden, grad_weight, hidden, weight, scratch);
  };
}

void add_fp8_entries(ops::DeviceTable& t) {
  t.fp8_quantize = [](const Tensor& values, const Tensor& transposed, const Tensor& amax,
                      const Tensor& input, const Tensor& scale, ops::Fp8Format format) {
    queue([=](auto&... x) { ops::fp8_quantize(x..., format); }, values, transposed, amax, input,
          scale);
  };
  t.fp8_amax = [](const Tensor& amax, const Tensor& input) { queue(&ops::fp8_amax, amax, input); };
  t.fp8_update_scales = [](const Tensor& history, const Tensor& amax, const Tensor& scale,
                           const Tensor& scale_inverse, const Tensor& largest, double margin) {
    queue([=](auto&... x) { ops::fp8_update_scales(x..., margin); }, history, amax, scale,
          scale_inverse, largest);
  };
  t.fp8_matmul = [](const Tensor& out, const ops::Fp8Operand& a, const ops::Fp8Operand& b,
                    const Tensor& bias, bool accumulate) {
    queue(
        [=, fa = a.format, fb = b.format](auto& o, auto& va, auto& sa, auto& vb, auto& sb,
                                          auto& c) {
          ops::fp8_matmul(o, {va, sa, fa}, {vb, sb, fb}, c, accumulate);
        },
        out, a.values, a.scale_inverse, b.values, b.scale_inverse, bias);
  };
}

void add_update_entries(ops::DeviceTable& t) {
  t.sum_of_squares = [](double* sum, const Tensor& flat) {
    queue([=](auto& x) { *sum += ops::sum_of_squares(x); }, flat);
  };
  t.prepare_update = [](ops::DeviceUpdate* update, ops::DeviceSums* sums,
                        const ops::UpdateSettings& settings) {
    submit([=] { ops::prepare_update(*update, *sums, settings); });
  };
  t.adamw = [](const Tensor& master, const Tensor& compute, const Tensor& grad,
               const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& amax,
               const ops::DeviceUpdate* update, const ops::UpdateSettings& settings,
               double weight_decay) {
    queue(
        [=](auto& w, auto& c, auto& g, auto& m, auto& v, auto& most) {
          if (update->skip != 0) return;
          ops::AdamWStep step{
              update->lr,   settings.beta1,           settings.beta2,           settings.eps,
              weight_decay, update->bias_correction1, update->bias_correction2, update->grad_scale};
          ops::adamw(w, c, g, m, v, step);
          if (most.defined()) ops::fp8_amax(most, c.view({1, -1}));
        },
        master, compute, grad, exp_avg, exp_avg_sq, amax);
  };
}

// The matrix within a parameter.
Tensor matrix_in(const Tensor& whole, const ops::MuonShape& shape) {
  return whole.view({shape.rows, shape.stride}).narrow(1, shape.first_column, shape.columns);
}

void add_muon_entries(ops::DeviceTable& t) {
  t.muon_momentum = [](const Tensor& momentum, double* squares, const Tensor& grad,
                       const ops::MuonShape& shape, double mu, const ops::DeviceUpdate* update) {
    queue(
        [=](auto& m, auto& g) {
          if (update->skip != 0) return;
          const Tensor own = matrix_in(m, shape);
          const Tensor scaled = matrix_in(g, shape).mul(update->grad_scale);
          own.lerp_(scaled, 1 - mu);
          *squares = ops::sum_of_squares(scaled.lerp(own, mu).contiguous());
        },
        momentum, grad);
  };
  t.muon_unit = [](const Tensor& x, const Tensor& momentum, const Tensor& grad,
                   const double* squares, const ops::MuonShape& shape, double mu,
                   const ops::DeviceUpdate* update) {
    queue(
        [=](auto& x_, auto& m, auto& g) {
          if (update->skip != 0) return;
          const Tensor scaled = matrix_in(g, shape).mul(update->grad_scale);
          x_.copy_(scaled.lerp(matrix_in(m, shape), mu)
                       .div(std::max(std::sqrt(*squares), ops::kMuonLeastNorm)));
        },
        x, momentum, grad);
  };
  t.scale_shift = [](const Tensor& out, const Tensor& in, double scale, double shift) {
    queue(
        [=](auto& to, auto& from) {
          const Tensor result = from.to(at::kFloat).mul(scale);
          result.diagonal().add_(shift);
          to.copy_(result);
        },
        out, in);
  };
  t.muon_apply = [](const Tensor& master, const Tensor& compute, const Tensor& x,
                    const ops::MuonShape& shape, double size, double weight_decay,
                    const ops::DeviceUpdate* update) {
    queue(
        [=](auto& w, auto& c, auto& x_) {
          if (update->skip != 0) return;
          const Tensor own = matrix_in(w, shape);
          own.mul_(1 - update->lr * weight_decay).sub_(x_, update->lr * size);
          if (c.defined()) matrix_in(c, shape).copy_(own);
        },
        master, compute, x);
  };
}

}  // namespace

void release_scratch() {
  scratch() = Tensor();
}

ops::DeviceTable table() {
  ops::DeviceTable t;
  add_device_entries(t);
  add_graph_entries(t);
  add_row_entries(t);
  add_norm_entries(t);
  add_attention_entries(t);
  add_product_entries(t);
  add_fp8_entries(t);
  add_update_entries(t);
  add_muon_entries(t);
  return t;
}

}  // namespace train_sft::fake_device
