// Activations, dropout, rotary positions, embedding rows, column sums.
#include "ops/dropout_hash.h"
#include "ops/simd/fill.h"
#include "ops/simd/parallel.h"
#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

constexpr int64_t kGrain = 64;   // elements; threads share no cache line
constexpr int64_t kExpCost = 8;  // an exponential, in elements touched

// gelu(x) = x sigmoid(2u), u = sqrt(2/π) (x + 0.044715 x³): equal to the tanh form.
constexpr float kTwoRoot = 1.5957691216057308f;
constexpr float kTwoRootCubic = kTwoRoot * 0.044715f;

template <typename T>
void gelu_forward(T* out, const T* input, int64_t count) {
  parallel_shares(count, kGrain, threads_for(count * kExpCost),
                  [&](int64_t begin, int64_t end, int64_t) {
                    for_lanes(end - begin, [&](int64_t i, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
                      const Vec x = load(input + begin + i, n);
                      const Vec u = x * fma(x * x, Vec::all(kTwoRootCubic), Vec::all(kTwoRoot));
                      store(out + begin + i, x * sigmoid(u), n);
                    });
                  });
}

template <typename T>
void gelu_backward(T* grad_input, const T* grad_out, const T* input, int64_t count) {
  parallel_shares(
      count, kGrain, threads_for(count * kExpCost), [&](int64_t begin, int64_t end, int64_t) {
        for_lanes(end - begin, [&](int64_t i, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
          const Vec x = load(input + begin + i, n), one = Vec::all(1.0f);
          const Vec xx = x * x;
          const Vec s = sigmoid(x * fma(xx, Vec::all(kTwoRootCubic), Vec::all(kTwoRoot)));
          const Vec du = fma(xx, Vec::all(3 * kTwoRootCubic), Vec::all(kTwoRoot));
          const Vec slope = s * fma(x * (one - s), du, one);
          store(grad_input + begin + i, load(grad_out + begin + i, n) * slope, n);
        });
      });
}

template <typename T>
void swiglu_forward(T* out, const T* gate_up, int64_t N, int64_t F) {
  parallel_shares(N, 1, threads_for(N * F * kExpCost), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = begin; r < end; ++r) {
      const T* gate = gate_up + r * 2 * F;
      for_lanes(F, [&](int64_t i, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        const Vec g = load(gate + i, n);
        store(out + r * F + i, g * sigmoid(g) * load(gate + F + i, n), n);
      });
    }
  });
}

template <typename T>
void swiglu_backward(T* grad_gate_up, const T* grad_out, const T* gate_up, int64_t N, int64_t F) {
  parallel_shares(N, 1, threads_for(N * F * kExpCost), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = begin; r < end; ++r) {
      const T* gate = gate_up + r * 2 * F;
      T* grad = grad_gate_up + r * 2 * F;
      for_lanes(F, [&](int64_t i, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        const Vec g = load(gate + i, n), up = load(gate + F + i, n);
        const Vec dy = load(grad_out + r * F + i, n), s = sigmoid(g), one = Vec::all(1.0f);
        store(grad + i, dy * up * s * fma(g, one - s, one), n);
        store(grad + F + i, dy * g * s, n);
      });
    }
  });
}

// dropout_bits() of dropout_hash.h for a vector of channels.
TRAIN_SFT_INLINE IntVec dropout_bits(DropoutSiteKey key, int64_t channel) {
  const IntVec c = IntVec::lanes() + IntVec::all(static_cast<uint32_t>(channel));
  IntVec h = c * IntVec::all(kDropoutWeyl) + IntVec::all(key.low);
  h = (h ^ h.shifted_right<16>()) * IntVec::all(kDropoutMultiplier1);
  h = ((h ^ h.shifted_right<15>()) + IntVec::all(key.high)) * IntVec::all(kDropoutMultiplier2);
  return (h ^ h.shifted_right<16>()).shifted_right<8>();
}

template <typename T>
void dropout(T* out, const T* input, const uint64_t* row_keys, uint32_t site, double p, int64_t N,
             int64_t C) {
  const uint32_t threshold = dropout_threshold(p);
  const Vec scale = Vec::all(static_cast<float>(1 / (1 - p)));
  // 24 bits: a signed comparison serves. Kept: bits ≥ threshold, that is threshold - 1 < bits.
  const IntVec below = IntVec::all(threshold - 1);
  parallel_shares(N, 1, threads_for(N * C * 4), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = begin; r < end; ++r) {
      const DropoutSiteKey key = dropout_site_key(row_keys[r], site);
      for_lanes(C, [&](int64_t c, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        const Vec x = load(input + r * C + c, n) * scale;
        store(out + r * C + c, zero_unless_less(below, dropout_bits(key, c), x), n);
      });
    }
  });
}

template <typename T>
void rope(T* qkv, const float* cosines, const float* sines, const int32_t* positions, int64_t N,
          int64_t heads, int64_t D, int64_t width, float direction) {
  const int64_t half = D / 2;
  parallel_shares(N, 1, threads_for(N * heads * D), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = begin; r < end; ++r) {
      const float* cosine = cosines + positions[r] * half;
      const float* sine = sines + positions[r] * half;
      for (int64_t h = 0; h < heads; ++h) {
        T* x = qkv + r * width + h * D;
        for_lanes(half, [&](int64_t i, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
          const Vec a = load(x + i, n), b = load(x + half + i, n), c = load(cosine + i, n);
          const Vec s = load(sine + i, n) * Vec::all(direction);
          store(x + i, fnma(b, s, a * c), n);
          store(x + half + i, fma(a, s, b * c), n);
        });
      }
    }
  });
}

template <typename T>
void embedding_forward(T* out, const T* table, const T* position_table, const int32_t* tokens,
                       const int32_t* positions, int64_t N, int64_t C) {
  parallel_shares(N, 1, threads_for(N * C), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = table + tokens[r] * C;
      const T* position_row =
          position_table == nullptr ? nullptr : position_table + positions[r] * C;
      for_lanes(C, [&](int64_t c, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        Vec x = load(row + c, n);
        if (position_row != nullptr) x = x + load(position_row + c, n);
        store(out + r * C + c, x, n);
      });
    }
  });
}

// to[rows[r]] += grad[r], or to[0] += when rows is null. Channels are shared among threads, so that
// each sum is in the order of rows.
template <typename T>
void add_to_rows(float* to, const int32_t* rows, const T* grad, int64_t N, int64_t C) {
  parallel_shares(C, Vec::width, threads_for(N * C), [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = 0; r < N; ++r) {
      float* row = to + (rows == nullptr ? 0 : rows[r] * C) + begin;
      for_lanes(end - begin, [&](int64_t c, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        store(row + c, load(row + c, n) + load(grad + r * C + begin + c, n), n);
      });
    }
  });
}

template <typename T>
void fill(simd::Kernels<T>& kernels) {
  kernels.gelu_forward = gelu_forward<T>;
  kernels.gelu_backward = gelu_backward<T>;
  kernels.swiglu_forward = swiglu_forward<T>;
  kernels.swiglu_backward = swiglu_backward<T>;
  kernels.dropout = dropout<T>;
  kernels.rope = rope<T>;
  kernels.embedding_forward = embedding_forward<T>;
  kernels.add_to_rows = add_to_rows<T>;
}

}  // namespace

void fill_elementwise(simd::Table& table) {
  fill(table.f32);
  fill(table.bf16);
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
