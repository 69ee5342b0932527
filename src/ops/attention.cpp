#include "train_sft/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

// One query row against `keys` rows: scores, then their log-sum-exp.
template <typename A, typename T>
A score_row(A* scores, const T* q, const T* k, int64_t k_stride, int64_t keys, int64_t D) {
  const A scale = A(1) / std::sqrt(A(D));
  A maximum = -std::numeric_limits<A>::infinity();
  for (int64_t j = 0; j < keys; ++j) {
    A dot = 0;
    for (int64_t d = 0; d < D; ++d) dot += A(q[d]) * A(k[j * k_stride + d]);
    scores[j] = dot * scale;
    maximum = std::max(maximum, scores[j]);
  }
  A sum = 0;
  for (int64_t j = 0; j < keys; ++j) sum += std::exp(scores[j] - maximum);
  return maximum + std::log(sum);
}

// out = Σ_j exp(scores[j] − lse) v[j]
template <typename A, typename T>
void weighted_values(T* out, const A* scores, A lse, const T* v, int64_t v_stride, int64_t keys,
                     int64_t D) {
  for (int64_t d = 0; d < D; ++d) {
    A sum = 0;
    for (int64_t j = 0; j < keys; ++j) sum += std::exp(scores[j] - lse) * A(v[j * v_stride + d]);
    out[d] = static_cast<T>(sum);
  }
}

template <typename T>
void forward(T* out, Accumulate<T>* lse, const T* qkv, std::span<const int32_t> cu_seqlens,
             const AttentionShape& shape, int64_t N) {
  const int64_t H = shape.n_head, D = shape.head_dim, W = shape.qkv_width();
  const int64_t group = H / shape.n_kv_head;
  for (int64_t h = 0; h < H; ++h) {
    std::vector<Accumulate<T>> scores;
    const T* q = qkv + h * D;
    const T* k = qkv + (H + h / group) * D;
    const T* v = k + shape.n_kv_head * D;
    for (size_t document = 0; document + 1 < cu_seqlens.size(); ++document) {
      const int64_t begin = cu_seqlens[document];
      for (int64_t i = begin; i < cu_seqlens[document + 1]; ++i) {
        const int64_t keys = i - begin + 1;
        scores.resize(keys);
        lse[h * N + i] = score_row(scores.data(), q + i * W, k + begin * W, W, keys, D);
        weighted_values(out + i * H * D + h * D, scores.data(), lse[h * N + i], v + begin * W, W,
                        keys, D);
      }
    }
  }
}

// With p_ij = exp(s_ij − lse_i):  dv_j = Σ_i p_ij do_i,  ds_ij = p_ij (do_i·v_j − do_i·o_i),
// dq_i = scale Σ_j ds_ij k_j,  dk_j = scale Σ_i ds_ij q_i.
template <typename T>
void backward_head(Accumulate<T>* dq, Accumulate<T>* dk, Accumulate<T>* dv, const T* grad_out,
                   const T* out, const Accumulate<T>* lse, const T* q, const T* k, const T* v,
                   int64_t begin, int64_t end, const AttentionShape& shape) {
  using A = Accumulate<T>;
  const int64_t D = shape.head_dim, W = shape.qkv_width(), O = shape.out_width();
  const A scale = A(1) / std::sqrt(A(D));
  for (int64_t i = begin; i < end; ++i) {
    A delta = 0;
    for (int64_t d = 0; d < D; ++d) delta += A(grad_out[i * O + d]) * A(out[i * O + d]);
    for (int64_t j = begin; j <= i; ++j) {
      A score = 0, dp = 0;
      for (int64_t d = 0; d < D; ++d) {
        score += A(q[i * W + d]) * A(k[j * W + d]);
        dp += A(grad_out[i * O + d]) * A(v[j * W + d]);
      }
      const A p = std::exp(score * scale - lse[i]);
      const A ds = p * (dp - delta) * scale;
      for (int64_t d = 0; d < D; ++d) {
        dv[(j - begin) * D + d] += p * A(grad_out[i * O + d]);
        dq[(i - begin) * D + d] += ds * A(k[j * W + d]);
        dk[(j - begin) * D + d] += ds * A(q[i * W + d]);
      }
    }
  }
}

template <typename T>
void backward(T* grad_qkv, const T* grad_out, const T* out, const Accumulate<T>* lse, const T* qkv,
              std::span<const int32_t> cu_seqlens, const AttentionShape& shape, int64_t N) {
  using A = Accumulate<T>;
  const int64_t H = shape.n_head, Hkv = shape.n_kv_head, D = shape.head_dim;
  const int64_t W = shape.qkv_width(), group = H / Hkv;
  for (int64_t g = 0; g < Hkv; ++g) {
    std::vector<A> dq, dk, dv;
    auto store = [&](int64_t begin, int64_t column, const std::vector<A>& rows) {
      for (size_t e = 0; e < rows.size(); ++e) {
        grad_qkv[(begin + e / D) * W + column + e % D] = static_cast<T>(rows[e]);
      }
    };
    for (size_t document = 0; document + 1 < cu_seqlens.size(); ++document) {
      const int64_t begin = cu_seqlens[document], end = cu_seqlens[document + 1];
      dk.assign((end - begin) * D, A(0));
      dv.assign((end - begin) * D, A(0));
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        dq.assign((end - begin) * D, A(0));
        backward_head<T>(dq.data(), dk.data(), dv.data(), grad_out + h * D, out + h * D,
                         lse + h * N, qkv + h * D, qkv + (H + g) * D, qkv + (H + Hkv + g) * D,
                         begin, end, shape);
        store(begin, h * D, dq);
      }
      store(begin, (H + g) * D, dk);
      store(begin, (H + Hkv + g) * D, dv);
    }
  }
}

template <typename T>
void decode(T* out, const T* q, int64_t q_stride, const T* k, const T* v, int64_t M, int64_t length,
            const AttentionShape& shape) {
  const int64_t H = shape.n_head, D = shape.head_dim, W = shape.n_kv_head * D;
  const int64_t group = H / shape.n_kv_head;
  for (int64_t h = 0; h < H; ++h) {
    std::vector<Accumulate<T>> scores(length);
    const int64_t column = h / group * D;
    for (int64_t m = 0; m < M; ++m) {
      const int64_t keys = length - M + m + 1;
      const Accumulate<T> lse =
          score_row(scores.data(), q + m * q_stride + h * D, k + column, W, keys, D);
      weighted_values(out + (m * H + h) * D, scores.data(), lse, v + column, W, keys, D);
    }
  }
}

simd::AttentionSize size_of(std::span<const int32_t> cu_seqlens, const AttentionShape& shape,
                            int64_t N) {
  const int64_t documents = cu_seqlens.empty() ? 0 : static_cast<int64_t>(cu_seqlens.size()) - 1;
  return {shape.n_head, shape.n_kv_head, shape.head_dim, N, cu_seqlens.data(), documents};
}

void check(std::span<const int32_t> cu_seqlens, const AttentionShape& shape, int64_t N) {
  TRAIN_SFT_CHECK(shape.n_kv_head > 0 && shape.n_head % shape.n_kv_head == 0,
                  "{} heads over {} key heads", shape.n_head, shape.n_kv_head);
  TRAIN_SFT_CHECK(!cu_seqlens.empty() && cu_seqlens.front() == 0 && cu_seqlens.back() == N,
                  "cu_seqlens must run from 0 to {}", N);
  for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d) {
    TRAIN_SFT_CHECK(cu_seqlens[d] <= cu_seqlens[d + 1], "cu_seqlens falls at document {}", d);
  }
}

// The limits lie in device memory: only their number is known here.
DeviceDocuments on_device(std::span<const int32_t> cu_seqlens, int64_t max_seqlen) {
  TRAIN_SFT_CHECK(max_seqlen > 0, "on a device attention needs a bound of the documents' length");
  return {cu_seqlens.data(), static_cast<int64_t>(cu_seqlens.size()) - 1, max_seqlen};
}

}  // namespace

void attention_forward(const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                       std::span<const int32_t> cu_seqlens, const AttentionShape& shape,
                       int64_t max_seqlen) {
  const profile::Scope scope("attention forward");
  const int64_t N = rows_of(out);
  if (const DeviceTable* device = device_table(qkv))
    return device->attention_forward(out, lse, qkv, on_device(cu_seqlens, max_seqlen), shape);
  check(cu_seqlens, shape, N);
  for_dtype(qkv.scalar_type(), [&]<typename T>() {
    T* y = data_of<T>(out, N * shape.out_width());
    Accumulate<T>* l = data_of<Accumulate<T>>(lse, shape.n_head * N);
    const T* x = data_of<T>(qkv, N * shape.qkv_width());
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->attention_forward(raw(y), l, raw(x), size_of(cu_seqlens, shape, N));
      }
    }
    forward<T>(y, l, x, cu_seqlens, shape, N);
  });
}

void attention_backward(const at::Tensor& grad_qkv, const at::Tensor& grad_out,
                        const at::Tensor& out, const at::Tensor& lse, const at::Tensor& qkv,
                        std::span<const int32_t> cu_seqlens, const AttentionShape& shape,
                        int64_t max_seqlen) {
  const profile::Scope scope("attention backward");
  const int64_t N = rows_of(out);
  if (const DeviceTable* device = device_table(qkv))
    return device->attention_backward(grad_qkv, grad_out, out, lse, qkv,
                                      on_device(cu_seqlens, max_seqlen), shape);
  check(cu_seqlens, shape, N);
  for_dtype(qkv.scalar_type(), [&]<typename T>() {
    const int64_t width = N * shape.out_width();
    T* dx = data_of<T>(grad_qkv, N * shape.qkv_width());
    const T *dy = data_of<T>(grad_out, width), *y = data_of<T>(out, width);
    const Accumulate<T>* l = data_of<Accumulate<T>>(lse, shape.n_head * N);
    const T* x = data_of<T>(qkv, N * shape.qkv_width());
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->attention_backward(raw(dx), raw(dy), raw(y), l, raw(x),
                                        size_of(cu_seqlens, shape, N));
      }
    }
    backward<T>(dx, dy, y, l, x, cu_seqlens, shape, N);
  });
}

void attention_decode(const at::Tensor& out, const at::Tensor& q, const at::Tensor& k_cache,
                      const at::Tensor& v_cache, int64_t length, const AttentionShape& shape) {
  const profile::Scope scope("attention decode");
  const int64_t M = rows_of(out), capacity = k_cache.size(0);
  TRAIN_SFT_CHECK(q.dim() == 2 && q.size(0) == M && q.size(1) == shape.out_width() &&
                      (q.size(1) == 1 || q.stride(1) == 1),
                  "q must be [{}, {}]", M, shape.out_width());
  TRAIN_SFT_CHECK(M <= length && length <= capacity, "{} queries, length {}, cache of {}", M,
                  length, capacity);
  for_dtype(out.scalar_type(), [&]<typename T>() {
    TRAIN_SFT_CHECK(q.scalar_type() == scalar_type<T>, "q of another dtype");
    const int64_t cache = capacity * shape.n_kv_head * shape.head_dim;
    T* y = data_of<T>(out, M * shape.out_width());
    const T* queries = static_cast<const T*>(q.data_ptr());
    const T *k = data_of<T>(k_cache, cache), *v = data_of<T>(v_cache, cache);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->attention_decode(raw(y), raw(queries), q.stride(0), raw(k), raw(v), M, length,
                                      size_of({}, shape, M));
      }
    }
    decode<T>(y, queries, q.stride(0), k, v, M, length, shape);
  });
}

}  // namespace train_sft::ops
