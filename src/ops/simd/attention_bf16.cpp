// Causal attention of bfloat16 on machines that multiply it: products take pairs of bfloat16 and
// add in float; scores, softmax and all sums stay float. Probabilities and the gradients of scores
// are rounded where they enter a product, as in FlashAttention. A tile of query rows meets only the
// keys that its last row may see; how work is shared does not change a row's result.
#include <cstdint>

#include "ops/simd/attention_units.h"
#include "ops/simd/fill.h"
#include "ops/simd/pack.h"
#include "ops/simd/parallel.h"
#include "ops/simd/small_product.h"
#include "ops/simd/table.h"
#include "ops/simd/vec.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

using simd::GemmOperand;

constexpr int64_t kBlockKeys = 256;
constexpr int64_t kBackwardRows = 4 * kTileRows;  // of queries in a block of the backward
static_assert(kTileRows % 2 == 0, "rows of a tile are paired");

thread_local KeptMemory head_memory, tile_memory;

// Lanes that hold n numbers as pairs.
TRAIN_SFT_INLINE int64_t pairs_of(int64_t n) {
  return (n + 1) / 2;
}

TRAIN_SFT_INLINE int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Hands out parts of kept memory, 64 bytes aligned.
class Pieces {
 public:
  explicit Pieces(void* memory) : next_(static_cast<char*>(memory)) {}
  float* floats(int64_t count) { return static_cast<float*>(take(count)); }
  uint32_t* lanes(int64_t count) { return static_cast<uint32_t*>(take(count)); }

 private:
  void* take(int64_t count) {
    void* piece = next_;
    next_ += padded(count) * 4;
    return piece;
  }
  char* next_;
};

// Rows of D numbers as they stand: lane p of a row is the pair (2p, 2p + 1).
void pairs_of_columns(uint32_t* to, const bf16_bits* from, int64_t stride, int64_t rows,
                      int64_t D) {
  const int64_t lanes = pairs_of(D);
  for (int64_t r = 0; r < rows; ++r, to += lanes, from += stride) {
    if (D % 2 != 0) to[lanes - 1] = 0;
    __builtin_memcpy(to, from, static_cast<size_t>(2 * D));
  }
}

// [D/2, to_stride] from rows of D numbers: their pairs of columns, transposed.
void transposed_pairs(uint32_t* to, int64_t to_stride, const bf16_bits* from, int64_t stride,
                      int64_t rows, int64_t D) {
  pack_left(to, to_stride, GemmOperand<bf16_bits>{from, stride, false}, 0, rows, 0, D);
}

// [rows/2, padded(D)]: lane d of row p is the pair of rows 2p and 2p + 1.
void pairs_of_rows(uint32_t* to, const bf16_bits* from, int64_t stride, int64_t rows, int64_t D) {
  pack_left(to, padded(D), GemmOperand<bf16_bits>{from, stride, true}, 0, D, 0, rows);
}

TRAIN_SFT_INLINE __m256i rounded(Vec x) {
  return (__m256i)_mm512_cvtneps_pbh(x.v);
}

// The first `count` lanes, the others zero, whatever count is.
TRAIN_SFT_INLINE Vec up_to(Vec x, int64_t count) {
  return x.kept(count < 0 ? 0 : least(count, Vec::width));
}

struct KeysAndValues {
  uint32_t* keys;    // [D/2, stride] pairs of channels
  uint32_t* values;  // [keys/2, D'] pairs of keys
  int64_t stride;

  static int64_t lanes(int64_t length, int64_t D) {
    return padded(length) * pairs_of(D) + pairs_of(length) * padded(D) + Vec::width;
  }
  KeysAndValues() = default;
  KeysAndValues(Pieces memory, const bf16_bits* k, const bf16_bits* v, int64_t row_stride,
                int64_t length, int64_t D)
      : keys(memory.lanes(padded(length) * pairs_of(D))),
        values(memory.lanes(pairs_of(length) * padded(D))),
        stride(padded(length)) {
    transposed_pairs(keys, stride, k, row_stride, length, D);
    pairs_of_rows(values, v, row_stride, length, D);
  }
};

struct Softmax {
  float maximum = -__builtin_inff(), sum = 0;

  // p = exp(scale s − maximum) in bfloat16, zero from `valid` to `columns`; returns the factor by
  // which what was summed before is to be scaled. The sum is of p before it is rounded.
  TRAIN_SFT_INLINE float add(bf16_bits* p, const float* s, float scale, int64_t valid,
                             int64_t columns) {
    Vec largest = Vec::all(-__builtin_inff());
    for_lanes(valid, [&](int64_t j, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
      const Vec x = Vec::load(s + j);
      largest = max(n == 0 ? x : x.then(largest, n), largest);
    });
    const float here = largest.max() * scale;
    const float next = here > maximum ? here : maximum;
    const float factor = exp(Vec::all(maximum - next)).first_lane();
    Vec total = Vec::zero();
    int64_t j = 0;
    for (; j < valid; j += Vec::width) {
      const Vec e = up_to(exp(fma(Vec::load(s + j), Vec::all(scale), Vec::all(-next))), valid - j);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + j), rounded(e));
      total = total + e;
    }
    for (; j < columns; j += Vec::width) zero(p + j);
    maximum = next;
    sum = sum * factor + total.sum();
    return factor;
  }

  TRAIN_SFT_INLINE static void zero(bf16_bits* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_setzero_si256());
  }
};

// Queries [i0, i0 + rows) of a document and head, at most a tile of them: out and lse.
void forward_tile(bf16_bits* out, int64_t out_stride, float* lse, const bf16_bits* q,
                  int64_t q_stride, const KeysAndValues& kv, int64_t i0, int64_t rows, int64_t D) {
  const int64_t width = padded(D), lanes = pairs_of(D), end = i0 + rows;
  constexpr int64_t kScores = kTileRows * kBlockKeys;
  Pieces memory(tile_memory.get(4 * (kTileRows * (lanes + width + 1) + 2 * kScores + 64)));
  uint32_t* queries = memory.lanes(kTileRows * lanes);
  float* result = memory.floats(kTileRows * width);
  float* scores = memory.floats(kScores);
  uint32_t* weights = memory.lanes(kScores / 2);
  Softmax softmax[kTileRows];
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(D));
  pairs_of_columns(queries, q + i0 * q_stride, q_stride, rows, D);
  for (int64_t j0 = 0; j0 < end; j0 += kBlockKeys) {
    const int64_t keys = least(end - j0, kBlockKeys), columns = padded(keys);
    small_product<true>(scores, kBlockKeys, queries, lanes, kv.keys + j0, kv.stride,
                        {rows, columns, lanes}, false);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t allowed = least(i0 + r - j0 + 1, keys);  // keys up to itself
      auto* p = reinterpret_cast<bf16_bits*>(weights + r * kBlockKeys / 2);
      if (allowed <= 0) {  // every key of this block is in this row's future
        for (int64_t j = 0; j < columns; j += Vec::width) Softmax::zero(p + j);
        continue;
      }
      const float factor = softmax[r].add(p, scores + r * kBlockKeys, scale, allowed, columns);
      if (j0 == 0 || factor == 1.0f) continue;
      for (int64_t d = 0; d < width; d += Vec::width) {
        (Vec::load(result + r * width + d) * Vec::all(factor)).store(result + r * width + d);
      }
    }
    small_product<true>(result, width, weights, kBlockKeys / 2, kv.values + j0 / 2 * width, width,
                        {rows, width, pairs_of(keys)}, j0 > 0);
  }
  for (int64_t r = 0; r < rows; ++r) {
    store_rows(out + (i0 + r) * out_stride, 0, result + r * width, 1, D, 1.0f / softmax[r].sum);
    lse[i0 + r] = softmax[r].maximum + __builtin_logf(softmax[r].sum);
  }
}

void forward(bf16_bits* out, float* lse, const bf16_bits* qkv, const simd::AttentionSize& size) {
  const int64_t D = size.D, group = size.H / size.Hkv;
  const int64_t W = (size.H + 2 * size.Hkv) * D, O = size.H * D;
  const int threads = threads_for(static_cast<int64_t>(attention_elements(size)));
  on_team(threads, [&](int64_t me, int64_t team) {
    int64_t packed_document = -1, packed_head = -1;
    KeysAndValues kv{};
    for_my_units(size, size.H, me, team, [&](int64_t document, int64_t h) {
      const int64_t begin = size.cu_seqlens[document], head = h / group;
      const int64_t length = size.cu_seqlens[document + 1] - begin;
      if (length == 0) return;
      if (document != packed_document || head != packed_head) {
        const bf16_bits* k = qkv + begin * W + (size.H + head) * D;
        kv = KeysAndValues(Pieces(head_memory.get(4 * KeysAndValues::lanes(length, D))), k,
                           k + size.Hkv * D, W, length, D);
        packed_document = document;
        packed_head = head;
      }
      const int64_t tiles = (length + kTileRows - 1) / kTileRows;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t i0 = share(length, t, tiles), i1 = share(length, t + 1, tiles);
        forward_tile(out + begin * O + h * D, O, lse + h * size.N + begin, qkv + begin * W + h * D,
                     W, kv, i0, i1 - i0, D);
      }
    });
  });
}

// Two rows of gradients of scores and of their probabilities, as pairs of rows; the gradients also
// row by row.
struct PairOfRows {
  uint32_t *p, *ds;
  bf16_bits* ds_rows[2];

  // p = exp(scale s − lse), ds = p (dp − delta), zero beyond what a row may see, up to `columns`.
  TRAIN_SFT_INLINE void fill(const float* s, const float* dp, const int64_t (&valid)[2],
                             int64_t columns, float scale, const float* lse, const float* delta) {
    const __m512i alternate =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t j = 0; j < columns; j += Vec::width) {
      Vec e[2], g[2];
      unrolled<2>([&](auto r) TRAIN_SFT_INLINE_LAMBDA {
        const Vec x = fma(Vec::load(s + r * kBlockKeys + j), Vec::all(scale), Vec::all(-lse[r]));
        e[r] = up_to(exp(x), valid[r] - j);
        g[r] = e[r] * (Vec::load(dp + r * kBlockKeys + j) - Vec::all(delta[r]));
        g[r] = up_to(g[r], valid[r] - j);
      });
      // Both rows rounded, the first in the lower half; then lane by lane.
      const auto both_e = (__m512i)_mm512_cvtne2ps_pbh(e[1].v, e[0].v);
      const auto both_g = (__m512i)_mm512_cvtne2ps_pbh(g[1].v, g[0].v);
      _mm512_storeu_si512(p + j, _mm512_permutexvar_epi16(alternate, both_e));
      _mm512_storeu_si512(ds + j, _mm512_permutexvar_epi16(alternate, both_g));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds_rows[0] + j),
                          _mm512_castsi512_si256(both_g));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds_rows[1] + j),
                          _mm512_extracti64x4_epi64(both_g, 1));
    }
  }
};

// The backward of one document and key head; see attention.cpp of the reference for the formulas.
// Gradients of keys and values are summed over the query heads that share them.
struct BackwardHead {
  int64_t length, D, width, lanes, stride;
  float scale;
  uint32_t *keys_t, *values_t, *keys;  // of the document: [D/2, stride] twice, [length/2, width]
  float *grad_keys, *grad_values;      // [stride, width]
  uint32_t *queries, *grad_out;        // of a block: [rows, D/2]
  uint32_t *query_pairs, *grad_out_pairs;  // [rows/2, width]
  uint32_t *p, *ds;                        // [rows/2, kBlockKeys]
  uint32_t* ds_rows;                       // [rows, kBlockKeys/2]
  float *scores, *grad_scores;             // of a tile: [kTileRows, kBlockKeys]
  float *grad_queries, *delta;

  BackwardHead(int64_t document_length, int64_t head_dim)
      : length(document_length),
        D(head_dim),
        width(padded(D)),
        lanes(pairs_of(D)),
        stride(padded(length)),
        scale(1.0f / __builtin_sqrtf(static_cast<float>(D))) {
    constexpr int64_t kRows = kBackwardRows, kKeys = kBlockKeys;
    const int64_t of_head = 2 * stride * (lanes + width) + pairs_of(length) * width;
    Pieces head(head_memory.get(4 * (of_head + 5 * Vec::width)));
    keys_t = head.lanes(stride * lanes);
    values_t = head.lanes(stride * lanes);
    keys = head.lanes(pairs_of(length) * width);
    grad_keys = head.floats(stride * width);
    grad_values = head.floats(stride * width);
    const int64_t of_block =
        kRows * (2 * lanes + 2 * width + 1) + 3 * kRows * kKeys / 2 + 2 * kTileRows * kKeys;
    Pieces block(tile_memory.get(4 * (of_block + 11 * Vec::width)));
    queries = block.lanes(kRows * lanes);
    grad_out = block.lanes(kRows * lanes);
    query_pairs = block.lanes(kRows / 2 * width);
    grad_out_pairs = block.lanes(kRows / 2 * width);
    p = block.lanes(kRows * kKeys / 2);
    ds = block.lanes(kRows * kKeys / 2);
    ds_rows = block.lanes(kRows * kKeys / 2);
    scores = block.floats(kTileRows * kKeys);
    grad_scores = block.floats(kTileRows * kKeys);
    grad_queries = block.floats(kRows * width);
    delta = block.floats(kRows);
  }

  void begin(const bf16_bits* k, const bf16_bits* v, int64_t row_stride) {
    transposed_pairs(keys_t, stride, k, row_stride, length, D);
    transposed_pairs(values_t, stride, v, row_stride, length, D);
    pairs_of_rows(keys, k, row_stride, length, D);
    for (int64_t i = 0; i < stride * width; i += Vec::width) {
      Vec::zero().store(grad_keys + i);
      Vec::zero().store(grad_values + i);
    }
  }

  // Rows [t0, t0 + rows) of the block that begins at query i0, against keys from j0: p, ds, and
  // what they add to the gradients of queries.
  void tile(int64_t i0, int64_t t0, int64_t rows, int64_t j0, int64_t keys_of_block,
            const float* lse) {
    const int64_t seen = least(keys_of_block, i0 + t0 + rows - j0);
    if (seen <= 0) return;  // nor does anything read p and ds there
    small_product<true>(scores, kBlockKeys, queries + t0 * lanes, lanes, keys_t + j0, stride,
                        {rows, padded(seen), lanes}, false);
    small_product<true>(grad_scores, kBlockKeys, grad_out + t0 * lanes, lanes, values_t + j0,
                        stride, {rows, padded(seen), lanes}, false);
    // A tile of keys that begins within what is seen is read to its end.
    const int64_t columns = least(kBlockKeys, padded(seen + kTileRows));
    for (int64_t r = 0; r < rows; r += 2) {
      const int64_t row = t0 + r, first = i0 + row - j0 + 1;
      const int64_t valid[2] = {least(first, keys_of_block),
                                r + 1 < rows ? least(first + 1, keys_of_block) : 0};
      const float lses[2] = {lse[i0 + row], r + 1 < rows ? lse[i0 + row + 1] : 0.0f};
      const float deltas[2] = {delta[row], r + 1 < rows ? delta[row + 1] : 0.0f};
      auto* by_row = reinterpret_cast<bf16_bits*>(ds_rows + row * kBlockKeys / 2);
      PairOfRows{p + row / 2 * kBlockKeys, ds + row / 2 * kBlockKeys, {by_row, by_row + kBlockKeys}}
          .fill(scores + r * kBlockKeys, grad_scores + r * kBlockKeys, valid, columns, scale, lses,
                deltas);
    }
    small_product<true>(grad_queries + t0 * width, width, ds_rows + t0 * kBlockKeys / 2,
                        kBlockKeys / 2, keys + j0 / 2 * width, width, {rows, width, pairs_of(seen)},
                        j0 > 0);
  }

  // Queries [i0, i0 + rows) against keys [j0, j0 + keys_here).
  void block(int64_t i0, int64_t rows, int64_t j0, int64_t keys_here, const float* lse) {
    for (int64_t t0 = 0; t0 < rows; t0 += kTileRows) {
      tile(i0, t0, least(kTileRows, rows - t0), j0, keys_here, lse);
    }
    for (int64_t m0 = 0; m0 < keys_here; m0 += kTileRows) {
      const int64_t count = least(kTileRows, keys_here - m0);
      const int64_t before = j0 + m0 - i0;  // rows that see none of these keys
      const int64_t first = before > 0 ? before / 2 : 0;
      const SmallShape shape{count, width, pairs_of(rows) - first};
      small_product<false>(grad_values + (j0 + m0) * width, width, p + first * kBlockKeys + m0,
                           kBlockKeys, grad_out_pairs + first * width, width, shape, true);
      small_product<false>(grad_keys + (j0 + m0) * width, width, ds + first * kBlockKeys + m0,
                           kBlockKeys, query_pairs + first * width, width, shape, true);
    }
  }

  // One query head; pointers at the document's first row.
  void head(bf16_bits* grad_q, const bf16_bits* dout, const bf16_bits* out, const float* lse,
            const bf16_bits* q, int64_t W, int64_t O) {
    const int64_t blocks = (length + kBackwardRows - 1) / kBackwardRows;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t i0 = share(length, b, blocks), rows = share(length, b + 1, blocks) - i0;
      pairs_of_columns(queries, q + i0 * W, W, rows, D);
      pairs_of_columns(grad_out, dout + i0 * O, O, rows, D);
      pairs_of_rows(query_pairs, q + i0 * W, W, rows, D);
      pairs_of_rows(grad_out_pairs, dout + i0 * O, O, rows, D);
      for (int64_t r = 0; r < rows; ++r)
        delta[r] = row_product(dout + (i0 + r) * O, out + (i0 + r) * O, D);
      for (int64_t j0 = 0; j0 < i0 + rows; j0 += kBlockKeys) {
        block(i0, rows, j0, least(i0 + rows - j0, kBlockKeys), lse);
      }
      store_rows(grad_q + i0 * W, W, grad_queries, rows, D, scale);
    }
  }
};

void backward(bf16_bits* grad_qkv, const bf16_bits* grad_out, const bf16_bits* out,
              const float* lse, const bf16_bits* qkv, const simd::AttentionSize& size) {
  const int64_t D = size.D, group = size.H / size.Hkv;
  const int64_t W = (size.H + 2 * size.Hkv) * D, O = size.H * D;
  const int threads = threads_for(static_cast<int64_t>(attention_elements(size)));
  on_team(threads, [&](int64_t me, int64_t team) {
    for_my_units(size, size.Hkv, me, team, [&](int64_t document, int64_t g) {
      const int64_t begin = size.cu_seqlens[document];
      const int64_t length = size.cu_seqlens[document + 1] - begin;
      if (length == 0) return;
      BackwardHead work(length, D);
      const int64_t k = begin * W + (size.H + g) * D, v = k + size.Hkv * D;
      work.begin(qkv + k, qkv + v, W);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        work.head(grad_qkv + begin * W + h * D, grad_out + begin * O + h * D,
                  out + begin * O + h * D, lse + h * size.N + begin, qkv + begin * W + h * D, W, O);
      }
      store_rows(grad_qkv + k, W, work.grad_keys, length, D, work.scale);
      store_rows(grad_qkv + v, W, work.grad_values, length, D, 1.0f);
    });
  });
}

}  // namespace

void fill_attention(simd::Table& table) {
  table.bf16.attention_forward = forward;
  table.bf16.attention_backward = backward;
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
