// Products of small matrices in cache, without packing: of floats, or of pairs of bfloat16.
#pragma once

#include <type_traits>

#include "ops/simd/tile.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

// A small product's shape: C [M, N] (+)= A [M, K] · B [K, N], where N is a multiple of Vec::width
// and rows of B and C are padded to it. K counts lanes: floats, or pairs of bfloat16.
struct SmallShape {
  int64_t M, N, K;
};

template <bool kRowMajor, int MR, int NV, typename Lane>
__attribute__((noinline)) void small_tile(float* c, int64_t c_stride, const Lane* a,
                                          int64_t a_stride, const Lane* b, int64_t b_stride,
                                          int64_t K, bool accumulate) {
  Tile<MR, NV> tile;
  tile.clear();
  if constexpr (std::is_same_v<Lane, uint32_t>) {
    if constexpr (kRowMajor) {
      tile.add_row_major_pairs(a, a_stride, b, b_stride, K);
    } else {
      tile.add_pairs(a, a_stride, b, b_stride, K);
    }
  } else if constexpr (kRowMajor) {
    tile.add_row_major(a, a_stride, b, b_stride, K);
  } else {
    tile.add_column_major(a, a_stride, b, b_stride, K);
  }
  unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
    unrolled<NV>([&](auto j) TRAIN_SFT_INLINE_LAMBDA {
      float* to = c + i * c_stride + j * Vec::width;
      const Vec x = tile.acc[i][j];
      (accumulate ? x + Vec::load(to) : x).store(to);
    });
  });
}

// kRowMajor: A(i, k) = a[i a_stride + k]; else a[k a_stride + i].
template <bool kRowMajor, typename Lane>
void small_product(float* c, int64_t c_stride, const Lane* a, int64_t a_stride, const Lane* b,
                   int64_t b_stride, SmallShape shape, bool accumulate) {
  const int64_t tiles = (shape.M + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = shape.M * t / tiles, rows = shape.M * (t + 1) / tiles - begin;
    const Lane* rows_of_a = a + begin * (kRowMajor ? a_stride : 1);
    float* rows_of_c = c + begin * c_stride;
    with_rows<kTileRows>(rows, [&]<int MR>() {
      int64_t n = 0;
      for (; n + kTileColumns <= shape.N; n += kTileColumns) {
        small_tile<kRowMajor, MR, kTileVecs>(rows_of_c + n, c_stride, rows_of_a, a_stride, b + n,
                                             b_stride, shape.K, accumulate);
      }
      if (n < shape.N) {
        small_tile<kRowMajor, MR, 1>(rows_of_c + n, c_stride, rows_of_a, a_stride, b + n, b_stride,
                                     shape.K, accumulate);
      }
    });
  }
}

TRAIN_SFT_INLINE int64_t padded(int64_t n) {
  return (n + Vec::width - 1) / Vec::width * Vec::width;
}

}  // namespace
}  // namespace train_sft::ops::TRAIN_SFT_ISA
