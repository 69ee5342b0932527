// Matrix products by packing and register tiles (Goto & van de Geijn 2008): panels of the right
// side are packed once for all threads, panels of the left side by the thread that owns the rows.
// Each element of the result is summed in the order of k by one thread: its bits do not depend on
// how many there are.
#include "ops/simd/fill.h"
#include "ops/simd/pack.h"
#include "ops/simd/parallel.h"
#include "ops/simd/skinny.h"
#include "ops/simd/table.h"
#include "ops/simd/tile.h"

namespace train_sft::ops::TRAIN_SFT_ISA {
namespace {

using simd::GemmOperand;
using simd::GemmShape;

constexpr int64_t kPanelStride = kTileRows <= 8 ? 8 : 16;  // of packed rows
// Lanes of k in a block, and panels of A in a block, which stays in L2 with one of B. A panel of B
// would stay in L1 at half the depth, but the result would be read and written twice as often, which
// costs more; bfloat16 goes through twice as much k in the time of one result (docs/performance.md).
#ifdef __AVX512BF16__
constexpr int64_t kDepth = 1536, kBlockPanels = 4;
#else
constexpr int64_t kDepth = 768, kBlockPanels = 6;
#endif
constexpr int64_t kColumns = 3072;  // columns in a block: B's block stays in L3
constexpr int64_t kDirectColumns = 1024;

thread_local KeptMemory packed_a_memory, packed_b_memory, partial_memory, bias_memory;

// What happens to a finished tile: out = tile (+ partial) (+ bias) (+ out).
template <typename Out>
struct Sink {
  Out* out;
  int64_t stride;
  const float* partial;  // same shape, partial_stride apart; or null
  int64_t partial_stride;
  const float* bias;  // or null
  bool accumulate;

  template <int MR, int NV>
  TRAIN_SFT_INLINE void take(Tile<MR, NV>& tile, int64_t row, int64_t column,
                             int64_t columns) const {
    // Narrow tiles too: code for each of their sizes took a quarter of this file's compilation.
    if (NV < kTileVecs || columns < NV * Vec::width) {
      float rows[MR * NV * Vec::width];
      each(tile, [&](auto i, auto j, Vec& x)
                     TRAIN_SFT_INLINE_LAMBDA { x.store(rows + (i * NV + j) * Vec::width); });
      const int64_t width = columns < NV * Vec::width ? columns : NV * Vec::width;
      return take_rows(rows, MR, NV * Vec::width, row, column, width);
    }
    Out* to = out + row * stride + column;
    if (partial != nullptr) {
      const float* before = partial + row * partial_stride + column;
      each(tile, [&](auto i, auto j, Vec& x) TRAIN_SFT_INLINE_LAMBDA {
        x = x + Vec::load(before + i * partial_stride + j * Vec::width);
      });
    }
    if (bias != nullptr) {
      each(tile, [&](auto, auto j, Vec& x) TRAIN_SFT_INLINE_LAMBDA {
        x = x + Vec::load(bias + column + j * Vec::width);
      });
    }
    if (accumulate) {
      each(tile, [&](auto i, auto j, Vec& x) TRAIN_SFT_INLINE_LAMBDA {
        x = x + Vec::load(to + i * stride + j * Vec::width);
      });
    }
    each(tile, [&](auto i, auto j, Vec& x)
                   TRAIN_SFT_INLINE_LAMBDA { x.store(to + i * stride + j * Vec::width); });
  }

 private:
  template <int MR, int NV, typename F>
  TRAIN_SFT_INLINE static void each(Tile<MR, NV>& tile, F&& f) {
    unrolled<MR>([&](auto i) TRAIN_SFT_INLINE_LAMBDA {
      unrolled<NV>([&](auto j) TRAIN_SFT_INLINE_LAMBDA { f(i, j, tile.acc[i][j]); });
    });
  }

  // Tiles at the right edge, from memory.
  __attribute__((noinline)) void take_rows(const float* rows, int64_t count, int64_t rows_stride,
                                           int64_t row, int64_t column, int64_t columns) const {
    for (int64_t i = 0; i < count; ++i) {
      for_lanes(columns, [&](int64_t j, int64_t n) TRAIN_SFT_INLINE_LAMBDA {
        Vec x = load(rows + i * rows_stride + j, n);
        if (partial != nullptr) {
          x = x + load(partial + (row + i) * partial_stride + column + j, n);
        }
        if (bias != nullptr) x = x + load(bias + column + j, n);
        Out* to = out + (row + i) * stride + column + j;
        if (accumulate) x = x + load(to, n);
        store(to, x, n);
      });
    }
  }
};

// Where the rows of the left side are read from: packed panels, or the matrix itself.
enum class Left { packed, rows };

template <typename Lane>
struct LeftPanel {
  const Lane* data;
  int64_t stride;
};

template <typename Lane, Left kLeft, int MR, int NV, typename Out>
__attribute__((noinline)) void tile_product(LeftPanel<Lane> a, const Lane* b, int64_t depth,
                                            const Sink<Out>& sink, int64_t row, int64_t column,
                                            int64_t columns) {
  Tile<MR, NV> tile;
  tile.clear();
#ifdef __AVX512BF16__
  if constexpr (std::is_same_v<Lane, uint32_t>) {
    tile.add_pairs(a.data, kPanelStride, b, kTileColumns, depth);
  } else
#endif
      if constexpr (kLeft == Left::packed) {
    tile.add_column_major(a.data, kPanelStride, b, kTileColumns, depth);
  } else {
    tile.add_row_major(a.data, a.stride, b, kTileColumns, depth);
  }
  sink.take(tile, row, column, columns);
}

// Threads as a grid over rows and columns of the result, as even as the tiles allow.
struct Grid {
  int64_t rows = 1, columns = 1;
  Grid(int64_t threads, int64_t M, int64_t panels) {
    int64_t best = -1;
    for (int64_t r = 1; r <= threads; ++r) {
      if (threads % r != 0) continue;
      const int64_t c = threads / r;
      const int64_t most = ((M + r - 1) / r + kTileRows - 1) / kTileRows * ((panels + c - 1) / c);
      if (best < 0 || most <= best) {
        best = most;
        rows = r;
        columns = c;
      }
    }
  }
};

// A block of the product: rows of `left` from the matrix's own, `depth` lanes of k, and columns
// whose right side is packed.
template <typename Lane, typename T, typename Out>
struct Block {
  GemmOperand<T> a;
  int64_t k, elements;  // of a's columns
  const Lane* packed_b;
  int64_t depth;    // lanes of k
  int64_t columns;  // of this block
  Sink<Out> sink;   // shifted to the block's first column
};

struct Range {
  int64_t begin, end;
};

// One panel of rows against panels of B.
template <Left kLeft, typename Lane, typename T, typename Out>
TRAIN_SFT_INLINE void multiply_panel(const Block<Lane, T, Out>& block, LeftPanel<Lane> a,
                                     Range rows, int64_t panel) {
  const Lane* b = block.packed_b + panel * kTileColumns * block.depth;
  const int64_t column = panel * kTileColumns, columns = block.columns - column;
  with_rows<kTileRows>(rows.end - rows.begin, [&]<int MR>() TRAIN_SFT_INLINE_LAMBDA {
    if (columns > Vec::width) {
      tile_product<Lane, kLeft, MR, 2>(a, b, block.depth, block.sink, rows.begin, column, columns);
    } else {
      tile_product<Lane, kLeft, MR, 1>(a, b, block.depth, block.sink, rows.begin, column, columns);
    }
  });
}

// Rows against panels of B, a group of kBlockPanels row panels at a time.
template <Left kLeft, typename Lane, typename T, typename Out>
void multiply_rows(const Block<Lane, T, Out>& block, Range rows, Range b_panels) {
  const int64_t count = rows.end - rows.begin;
  const int64_t panels = (count + kTileRows - 1) / kTileRows;
  const int64_t panel_lanes = kPanelStride * block.depth;
  Lane* packed = nullptr;
  if (kLeft == Left::packed) {
    packed = static_cast<Lane*>(packed_a_memory.get(kBlockPanels * panel_lanes * sizeof(Lane)));
  }
  auto rows_of = [&](int64_t p) {
    return Range{rows.begin + share(count, p, panels), rows.begin + share(count, p + 1, panels)};
  };
  for (int64_t p0 = 0; p0 < panels; p0 += kBlockPanels) {
    const int64_t p1 = p0 + kBlockPanels < panels ? p0 + kBlockPanels : panels;
    for (int64_t p = p0; kLeft == Left::packed && p < p1; ++p) {
      const Range r = rows_of(p);
      pack_left(packed + (p - p0) * panel_lanes, kPanelStride, block.a, r.begin, r.end - r.begin,
                block.k, block.elements);
    }
    for (int64_t q = b_panels.begin; q < b_panels.end; ++q) {
      for (int64_t p = p0; p < p1; ++p) {
        const Range r = rows_of(p);
        LeftPanel<Lane> a{packed + (p - p0) * panel_lanes, kPanelStride};
        if constexpr (kLeft == Left::rows) {
          a = {block.a.data + r.begin * block.a.stride + block.k, block.a.stride};
        }
        multiply_panel<kLeft>(block, a, r, q);
      }
    }
  }
}

// Packing a left side by transposing it costs as much as some hundred columns of products: narrow
// results read the matrix itself, unless its rows lie a multiple of 4 KB apart and would fall on
// each other in L1.
template <typename Lane, typename T, typename Out>
void multiply(const Block<Lane, T, Out>& block, Range rows, Range b_panels) {
  if constexpr (std::is_same_v<Lane, T>) {
    if (!block.a.transposed && block.columns <= kDirectColumns && block.a.stride % 1024 != 0) {
      return multiply_rows<Left::rows>(block, rows, b_panels);
    }
  }
  multiply_rows<Left::packed>(block, rows, b_panels);
}

// Lane: float, or uint32_t for pairs of bfloat16.
template <typename Lane, typename T, typename Out>
void gemm_packed(Out* out, int64_t stride, GemmShape shape, GemmOperand<T> a, GemmOperand<T> b,
                 const float* bias, bool accumulate) {
  constexpr int64_t kPerLane = sizeof(Lane) / (std::is_same_v<Lane, float> ? 4 : 2);
  constexpr int64_t kElements = kDepth * kPerLane;  // of k in a block
  const auto [M, N, K] = shape;
  // A result of bfloat16 is not summed through its own rounding: the first blocks go to float.
  float* partial = nullptr;
  if constexpr (!std::is_same_v<Out, float>) {
    if (K > kElements) partial = static_cast<float*>(partial_memory.get(M * N * 4));
  }
  const int64_t widest = N < kColumns ? N : kColumns;
  const int64_t b_panels_at_most = (widest + kTileColumns - 1) / kTileColumns;
  const int64_t deepest = K < kElements ? (K + kPerLane - 1) / kPerLane : kDepth;
  Lane* packed_b = static_cast<Lane*>(
      packed_b_memory.get(b_panels_at_most * kTileColumns * deepest * sizeof(Lane)));
  const int threads = threads_for(M * N * K / 8);

  on_team(threads, [&](int64_t me, int64_t team) {
    for (int64_t n0 = 0; n0 < N; n0 += kColumns) {
      const int64_t columns = N - n0 < kColumns ? N - n0 : kColumns;
      const int64_t panels = (columns + kTileColumns - 1) / kTileColumns;
      const Grid grid(team, M, panels);
      const int64_t my_row = me / grid.columns, my_column = me % grid.columns;
      for (int64_t k0 = 0; k0 < K || k0 == 0; k0 += kElements) {
        const int64_t elements = K - k0 < kElements ? K - k0 : kElements;
        const int64_t depth = (elements + kPerLane - 1) / kPerLane;
        const bool first = k0 == 0, last = k0 + kElements >= K;
        if (team > 1 && (n0 > 0 || k0 > 0)) team_barrier();
        for (int64_t q = share(panels, me, team); q < share(panels, me + 1, team); ++q) {
          const int64_t column = q * kTileColumns;
          const int64_t width = columns - column < kTileColumns ? columns - column : kTileColumns;
          pack_right(packed_b + column * depth, kTileColumns, b, k0, elements, n0 + column, width);
        }
        if (team > 1) team_barrier();
        const Range rows{share(M, my_row, grid.rows), share(M, my_row + 1, grid.rows)};
        const Range mine{share(panels, my_column, grid.columns),
                         share(panels, my_column + 1, grid.columns)};
        const float* block_bias = last && bias != nullptr ? bias + n0 : nullptr;
        if (partial != nullptr && !last) {
          const Sink<float> sink{partial + n0, N, nullptr, 0, nullptr, !first};
          multiply(Block<Lane, T, float>{a, k0, elements, packed_b, depth, columns, sink}, rows,
                   mine);
        } else {
          const bool add = accumulate || (!first && partial == nullptr);
          const float* before = partial == nullptr ? nullptr : partial + n0;
          const Sink<Out> sink{out + n0, stride, before, N, block_bias, add};
          multiply(Block<Lane, T, Out>{a, k0, elements, packed_b, depth, columns, sink}, rows,
                   mine);
        }
      }
    }
  });
}

template <typename T, typename Out>
void gemm(Out* out, int64_t stride, GemmShape shape, GemmOperand<T> a, GemmOperand<T> b,
          const T* bias, bool accumulate) {
  const float* wide_bias = nullptr;
  if constexpr (std::is_same_v<T, float>) {
    wide_bias = bias;
  } else if (bias != nullptr) {
    float* wide = static_cast<float*>(bias_memory.get(shape.N * 4));
    for_lanes(shape.N, [&](int64_t i, int64_t n) { store(wide + i, load(bias + i, n), n); });
    wide_bias = wide;
  }
  if (shape.M <= kSkinnyRows && !a.transposed) {
    return gemm_skinny(out, stride, shape, a, b, wide_bias, accumulate);
  }
#ifdef __AVX512BF16__
  using Lane = std::conditional_t<std::is_same_v<T, float>, float, uint32_t>;
#else
  using Lane = float;
#endif
  gemm_packed<Lane>(out, stride, shape, a, b, wide_bias, accumulate);
}

}  // namespace

void fill_gemm(simd::Table& table) {
#ifndef __AVX512BF16__
  table.f32.gemm = gemm<float, float>;
  table.f32.gemm_to_float = gemm<float, float>;
#endif
  table.bf16.gemm = gemm<bf16_bits, bf16_bits>;
  table.bf16.gemm_to_float = gemm<bf16_bits, float>;
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
