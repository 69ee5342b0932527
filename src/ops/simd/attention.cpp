// Causal attention in tiles: kBlockRows queries against kBlockKeys keys at a time, in float. A
// document's keys and values are unpacked once for the query heads that share them. A query row's
// result does not depend on how work is shared among threads.
#include "ops/simd/attention_units.h"
#include "ops/simd/fill.h"
#include "ops/simd/pack.h"
#include "ops/simd/parallel.h"
#include "ops/simd/small_product.h"
#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

constexpr int64_t kBlockRows = (kTileRows > 8 ? 2 : 4) * kTileRows;
constexpr int64_t kBlockKeys = 256;

thread_local KeptMemory head_memory, tile_memory;

// to[r D' + d] = from[r stride + d] * scale, zero from d = D to D' = padded(D).
template <typename T>
void unpack_rows(float* to, const T* from, int64_t stride, int64_t rows, int64_t D, float scale) {
  const int64_t width = padded(D);
  for (int64_t r = 0; r < rows; ++r, to += width, from += stride) {
    for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
      (load(from + d, n) * Vec::all(scale)).store(to + d);
    });
  }
}

// A document's keys (transposed, [D, keys']) and values ([keys, D']) of one key head.
struct KeysAndValues {
  float* keys_t;
  float* values;
  int64_t stride;  // keys' = padded(keys)

  static int64_t floats(int64_t keys, int64_t D) { return padded(keys) * (D + padded(D)); }

  template <typename T>
  void unpack(float* memory, const T* k, const T* v, int64_t row_stride, int64_t keys, int64_t D) {
    stride = padded(keys);
    keys_t = memory;
    values = memory + stride * D;
    pack_transposed(keys_t, stride, k, row_stride, keys, D);
    unpack_rows(values, v, row_stride, keys, D, 1.0f);
  }
};

// Online softmax (Milakov & Gimelshein 2018) of one row of scores: s becomes exp(s - maximum), zero
// from `valid` to `columns`; returns the factor by which what was summed before is to be scaled.
TRAIN_SFT_INLINE float softmax_row(float* s, int64_t valid, int64_t columns, float& maximum,
                                   float& sum) {
  Vec largest = Vec::all(maximum);
  for_lanes(valid, [&](int64_t j, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
    const Vec x = Vec::load(s + j);
    largest = max(n == 0 ? x : x.then(largest, n), largest);
  });
  const float next = largest.max();
  const float factor = exp(Vec::all(maximum - next)).first_lane();
  Vec total = Vec::zero();
  for_lanes(valid, [&](int64_t j, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
    const Vec p = kept(exp(Vec::load(s + j) - Vec::all(next)), n);
    p.store(s + j);
    total = total + p;
  });
  for (int64_t j = padded(valid); j < columns; j += Vec::width) Vec::zero().store(s + j);
  maximum = next;
  sum = sum * factor + total.sum();
  return factor;
}

// Queries [i0, i0 + rows) of a document and head: out and lse.
template <typename T>
void forward_block(T* out, int64_t out_stride, float* lse, const T* q, int64_t q_stride,
                   const KeysAndValues& kv, int64_t i0, int64_t rows, int64_t D) {
  const int64_t width = padded(D);
  float* queries = tile_memory.floats(kBlockRows * (2 * width + kBlockKeys + 2));
  float* result = queries + kBlockRows * width;
  float* scores = result + kBlockRows * width;
  float* maximum = scores + kBlockRows * kBlockKeys;
  float* sum = maximum + kBlockRows;
  unpack_rows(queries, q + i0 * q_stride, q_stride, rows, D, 1.0f / __builtin_sqrtf(D));
  for (int64_t r = 0; r < rows; ++r) {
    maximum[r] = -__builtin_inff();
    sum[r] = 0;
  }
  for (int64_t j0 = 0; j0 < i0 + rows; j0 += kBlockKeys) {
    const int64_t keys = i0 + rows - j0 < kBlockKeys ? i0 + rows - j0 : kBlockKeys;
    const int64_t columns = padded(keys);
    small_product<true>(scores, kBlockKeys, queries, width, kv.keys_t + j0, kv.stride,
                        {rows, columns, D}, false);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t allowed = i0 + r - j0 + 1;  // keys up to itself
      if (allowed <= 0) {                       // every key of this block is in this row's future
        for (int64_t j = 0; j < columns; j += Vec::width) {
          Vec::zero().store(scores + r * kBlockKeys + j);
        }
        continue;
      }
      const float factor = softmax_row(scores + r * kBlockKeys, allowed < keys ? allowed : keys,
                                       columns, maximum[r], sum[r]);
      if (j0 == 0 || factor == 1.0f) continue;
      for (int64_t d = 0; d < width; d += Vec::width) {
        (Vec::load(result + r * width + d) * Vec::all(factor)).store(result + r * width + d);
      }
    }
    small_product<true>(result, width, scores, kBlockKeys, kv.values + j0 * width, width,
                        {rows, width, keys}, j0 > 0);
  }
  for (int64_t r = 0; r < rows; ++r) {
    store_rows(out + (i0 + r) * out_stride, 0, result + r * width, 1, D, 1.0f / sum[r]);
    lse[i0 + r] = maximum[r] + __builtin_logf(sum[r]);
  }
}

template <typename T>
void forward(T* out, float* lse, const T* qkv, const simd::AttentionSize& size) {
  const int64_t D = size.D, group = size.H / size.Hkv;
  const int64_t W = (size.H + 2 * size.Hkv) * D, O = size.H * D;
  const int threads = threads_for(static_cast<int64_t>(attention_elements(size)));
  on_team(threads, [&](int64_t me, int64_t team) {
    int64_t unpacked_document = -1, unpacked_head = -1;
    KeysAndValues kv{};
    for_my_units(size, size.H, me, team, [&](int64_t document, int64_t h) {
      const int64_t begin = size.cu_seqlens[document], head = h / group;
      const int64_t length = size.cu_seqlens[document + 1] - begin;
      if (length == 0) return;
      if (document != unpacked_document || head != unpacked_head) {
        const T* k = qkv + begin * W + (size.H + head) * D;
        kv.unpack(head_memory.floats(KeysAndValues::floats(length, D)), k, k + size.Hkv * D, W,
                  length, D);
        unpacked_document = document;
        unpacked_head = head;
      }
      const int64_t blocks = (length + kBlockRows - 1) / kBlockRows;
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t i0 = share(length, b, blocks), i1 = share(length, b + 1, blocks);
        forward_block(out + begin * O + h * D, O, lse + h * size.N + begin, qkv + begin * W + h * D,
                      W, kv, i0, i1 - i0, D);
      }
    });
  });
}

// The backward of one document and key head, in floats; see attention.cpp of the reference for the
// formulas. Gradients of keys and values are summed over the query heads that share them.
template <typename T>
struct BackwardHead {
  int64_t length, D, width, stride;
  float *keys_t, *keys, *values_t, *grad_keys, *grad_values;               // of the document
  float *queries, *grad_out, *grad_queries, *probabilities, *grad_scores;  // of a block
  float* delta;

  BackwardHead(int64_t document_length, int64_t head_dim)
      : length(document_length), D(head_dim), width(padded(D)), stride(padded(length)) {
    float* m = head_memory.floats(stride * (2 * D + 3 * width));
    keys_t = m;
    values_t = keys_t + stride * D;
    keys = values_t + stride * D;
    grad_keys = keys + stride * width;
    grad_values = grad_keys + stride * width;
    m = tile_memory.floats(kBlockRows * (3 * width + 2 * kBlockKeys + 1));
    queries = m;
    grad_out = queries + kBlockRows * width;
    grad_queries = grad_out + kBlockRows * width;
    probabilities = grad_queries + kBlockRows * width;
    grad_scores = probabilities + kBlockRows * kBlockKeys;
    delta = grad_scores + kBlockRows * kBlockKeys;
  }

  void begin(const T* k, const T* v, int64_t row_stride) {
    pack_transposed(keys_t, stride, k, row_stride, length, D);
    pack_transposed(values_t, stride, v, row_stride, length, D);
    unpack_rows(keys, k, row_stride, length, D, 1.0f);
    for (int64_t i = 0; i < 2 * stride * width; i += Vec::width) Vec::zero().store(grad_keys + i);
  }

  // p = exp(s − lse), ds = p (dp − delta), zero beyond `valid`.
  TRAIN_SFT_INLINE static void scores_row(float* p, float* ds, int64_t valid, int64_t columns,
                                          float lse, float delta) {
    int64_t j = 0;
    for_lanes(valid, [&](int64_t at, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
      const Vec e = kept(exp(Vec::load(p + at) - Vec::all(lse)), n);
      e.store(p + at);
      kept(e * (Vec::load(ds + at) - Vec::all(delta)), n).store(ds + at);
      j = at + Vec::width;
    });
    for (; j < columns; j += Vec::width) {
      Vec::zero().store(p + j);
      Vec::zero().store(ds + j);
    }
  }

  // Queries [i0, i0 + rows) against keys [j0, j0 + keys).
  void block(int64_t i0, int64_t rows, int64_t j0, int64_t keys_here, const float* lse) {
    const int64_t columns = padded(keys_here);
    small_product<true>(probabilities, kBlockKeys, queries, width, keys_t + j0, stride,
                        {rows, columns, D}, false);
    small_product<true>(grad_scores, kBlockKeys, grad_out, width, values_t + j0, stride,
                        {rows, columns, D}, false);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t valid = i0 + r - j0 + 1;
      valid = valid < 0 ? 0 : valid < keys_here ? valid : keys_here;
      scores_row(probabilities + r * kBlockKeys, grad_scores + r * kBlockKeys, valid, columns,
                 lse[i0 + r], delta[r]);
    }
    small_product<false>(grad_values + j0 * width, width, probabilities, kBlockKeys, grad_out,
                         width, {keys_here, width, rows}, true);
    small_product<false>(grad_keys + j0 * width, width, grad_scores, kBlockKeys, queries, width,
                         {keys_here, width, rows}, true);
    small_product<true>(grad_queries, width, grad_scores, kBlockKeys, keys + j0 * width, width,
                        {rows, width, keys_here}, j0 > 0);
  }

  // One query head; pointers at the document's first row.
  void head(T* grad_q, const T* dout, const T* out, const float* lse, const T* q, int64_t W,
            int64_t O) {
    const float scale = 1.0f / __builtin_sqrtf(D);
    const int64_t blocks = (length + kBlockRows - 1) / kBlockRows;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t i0 = share(length, b, blocks), rows = share(length, b + 1, blocks) - i0;
      unpack_rows(queries, q + i0 * W, W, rows, D, scale);
      unpack_rows(grad_out, dout + i0 * O, O, rows, D, 1.0f);
      for (int64_t r = 0; r < rows; ++r)
        delta[r] = row_product(dout + (i0 + r) * O, out + (i0 + r) * O, D);
      for (int64_t j0 = 0; j0 < i0 + rows; j0 += kBlockKeys) {
        const int64_t left = i0 + rows - j0;
        block(i0, rows, j0, left < kBlockKeys ? left : kBlockKeys, lse);
      }
      store_rows(grad_q + i0 * W, W, grad_queries, rows, D, scale);
    }
  }
};

template <typename T>
void backward(T* grad_qkv, const T* grad_out, const T* out, const float* lse, const T* qkv,
              const simd::AttentionSize& size) {
  const int64_t D = size.D, group = size.H / size.Hkv;
  const int64_t W = (size.H + 2 * size.Hkv) * D, O = size.H * D;
  const int threads = threads_for(static_cast<int64_t>(attention_elements(size)));
  on_team(threads, [&](int64_t me, int64_t team) {
    for_my_units(size, size.Hkv, me, team, [&](int64_t document, int64_t g) {
      const int64_t begin = size.cu_seqlens[document];
      const int64_t length = size.cu_seqlens[document + 1] - begin;
      if (length == 0) return;
      BackwardHead<T> work(length, D);
      const int64_t k = begin * W + (size.H + g) * D, v = k + size.Hkv * D;
      work.begin(qkv + k, qkv + v, W);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        work.head(grad_qkv + begin * W + h * D, grad_out + begin * O + h * D,
                  out + begin * O + h * D, lse + h * size.N + begin, qkv + begin * W + h * D, W, O);
      }
      store_rows(grad_qkv + k, W, work.grad_keys, length, D, 1.0f);
      store_rows(grad_qkv + v, W, work.grad_values, length, D, 1.0f);
    });
  });
}

// One query against the first `keys` cached rows of its key head.
template <typename T>
void decode_row(T* out, const T* q, const T* k, const T* v, int64_t stride, int64_t keys,
                int64_t D) {
  float* scores = tile_memory.floats(padded(keys) + padded(D));
  float* result = scores + padded(keys);
  for (int64_t j = 0; j < keys; ++j) {
    Vec dot = Vec::zero();
    for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
      dot = fma(load(q + d, n), load(k + j * stride + d, n), dot);
    });
    scores[j] = dot.sum() / __builtin_sqrtf(D);
  }
  float maximum = -__builtin_inff(), sum = 0;
  softmax_row(scores, keys, padded(keys), maximum, sum);
  for (int64_t d = 0; d < padded(D); d += Vec::width) Vec::zero().store(result + d);
  for (int64_t j = 0; j < keys; ++j) {
    const Vec p = Vec::all(scores[j] / sum);
    for_lanes(D, [&](int64_t d, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
      fma(p, load(v + j * stride + d, n), Vec::load(result + d)).store(result + d);
    });
  }
  for_lanes(D, [&](int64_t d, int64_t n)
                   TRAIN_SFT_INLINE_LAMBDA { store(out + d, Vec::load(result + d), n); });
}

template <typename T>
void decode(T* out, const T* q, int64_t q_stride, const T* k, const T* v, int64_t M, int64_t length,
            const simd::AttentionSize& size) {
  const int64_t D = size.D, group = size.H / size.Hkv, stride = size.Hkv * D;
  parallel_shares(size.H, 1, threads_for(M * length * size.H * D / 4),
                  [&](int64_t begin, int64_t end, int64_t) {
                    for (int64_t h = begin; h < end; ++h) {
                      for (int64_t m = 0; m < M; ++m) {
                        decode_row(out + (m * size.H + h) * D, q + m * q_stride + h * D,
                                   k + h / group * D, v + h / group * D, stride, length - M + m + 1,
                                   D);
                      }
                    }
                  });
}

template <typename T>
void fill(simd::Kernels<T>& kernels) {
  kernels.attention_forward = forward<T>;
  kernels.attention_backward = backward<T>;
  kernels.attention_decode = decode<T>;
}

}  // namespace

void fill_attention(simd::Table& table) {
  fill(table.f32);
  fill(table.bf16);
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
