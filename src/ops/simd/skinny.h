// Products of a few rows with a large matrix, as in decoding: the matrix is read once, where it is.
#pragma once

#include "ops/simd/parallel.h"
#include "ops/simd/table.h"
#include "ops/simd/tile.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

constexpr int kSkinnyRows = 4;

template <typename T, typename Out>
struct Skinny {
  Out* out;
  int64_t stride;
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  const float* bias;
  int64_t K;
  bool accumulate;

  TRAIN_SFT_INLINE void take(int64_t row, int64_t column, Vec x, int64_t n) const {
    Out* to = out + row * stride + column;
    if (bias != nullptr) x = x + load(bias + column, n);
    if (accumulate) x = x + load(to, n);
    store(to, x, n);
  }

  // b [K, N]: columns [begin, end), some vectors of them at a time: of one row of bfloat16 twice as
  // many, so that as many bytes of b's rows are read together.
  template <int MR>
  void straight(int64_t begin, int64_t end) const {
    int64_t column = begin;
    if constexpr (MR == 1 && sizeof(T) == 2) column = column_sums<MR, 8>(column, end);
    column = column_sums<MR, 4>(column, end);
    column_sums<MR, 1>(column, end);
  }

  // All that can be done of [column, end) with kVecs whole vectors, or to the end with one; where
  // it stopped.
  template <int MR, int kVecs>
  TRAIN_SFT_INLINE int64_t column_sums(int64_t column, int64_t end) const {
    while (column < end) {
      const int64_t left = end - column;
      if (kVecs > 1 && left < kVecs * Vec::width) break;
      const int64_t n = kVecs == 1 && left < Vec::width ? left : 0;  // of a cut vector
      Tile<MR, kVecs> tile;
      tile.clear();
      for (int64_t k = 0; k < K; ++k) {
        const T* row = b + k * b_stride + column;
        unrolled<kVecs>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
          const Vec y = load(row + j * Vec::width, n);
          unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
            tile.acc[i][j] = fma(Vec::all(widen1(a[i * a_stride + k])), y, tile.acc[i][j]);
          });
        });
      }
      unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
        unrolled<kVecs>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
          take(i, column + j * Vec::width, tile.acc[i][j], n);
        });
      });
      column += n > 0 ? n : kVecs * Vec::width;
    }
    return column;
  }

  // bᵀ [N, K]: a column of the result is a dot product with a row.
  template <int MR>
  void transposed(int64_t begin, int64_t end) const {
    for (int64_t column = begin; column < end; ++column) {
      const T* row = b + column * b_stride;
      Tile<MR, 2> tile;  // two sums, of even and odd vectors
      tile.clear();
      int64_t k = 0;
      for (; k + 2 * Vec::width <= K; k += 2 * Vec::width) {
        unrolled<2>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
          const Vec y = Vec::load(row + k + j * Vec::width);
          unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
            const Vec x = Vec::load(a + i * a_stride + k + j * Vec::width);
            tile.acc[i][j] = fma(x, y, tile.acc[i][j]);
          });
        });
      }
      for_lanes(K - k, [&](int64_t at, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        const Vec y = load(row + k + at, n);
        unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
          tile.acc[i][0] = fma(load(a + i * a_stride + k + at, n), y, tile.acc[i][0]);
        });
      });
      unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
        take(i, column, Vec::all((tile.acc[i][0] + tile.acc[i][1]).sum()), 1);
      });
    }
  }
};

// M ≤ kSkinnyRows, a not transposed.
template <typename T, typename Out>
void gemm_skinny(Out* out, int64_t stride, simd::GemmShape shape, simd::GemmOperand<T> a,
                 simd::GemmOperand<T> b, const float* bias, bool accumulate) {
  const Skinny<T, Out> product{out,      stride, a.data,  a.stride,  b.data,
                               b.stride, bias,   shape.K, accumulate};
  const int64_t grain = b.transposed ? 4 : 4 * Vec::width;
  parallel_shares(shape.N, grain, threads_for(shape.N * shape.K),
                  [&](int64_t begin, int64_t end, int64_t) {
                    with_rows<kSkinnyRows>(shape.M, [&]<int MR>() {
                      if (b.transposed) {
                        product.template transposed<MR>(begin, end);
                      } else {
                        product.template straight<MR>(begin, end);
                      }
                    });
                  });
}

}  // namespace
}  // namespace train_sft::ops::TRAIN_SFT_ISA
