// Whole rows: gather, scatter, embeddings.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 256;

// Rows as units of 16, 4 or 2 bytes.
template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(Unit* out, const Unit* in, const int32_t* rows, uint32_t count, uint32_t units) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t row = i / units, u = i % units;
  if (row >= count) return;
  out[static_cast<int64_t>(row) * units + u] = in[static_cast<int64_t>(rows[row]) * units + u];
}

template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(Unit* out, const Unit* in, const int32_t* rows, uint32_t count, uint32_t units) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t row = i / units, u = i % units;
  if (row >= count) return;
  out[static_cast<int64_t>(rows[row]) * units + u] = in[static_cast<int64_t>(row) * units + u];
}

// Calls f.template operator()<Unit>(blocks, units of a row), a thread a unit of `count` rows.
template <typename F>
void by_unit(const void* a, const void* b, int64_t count, int64_t row_bytes, F&& f) {
  const auto with = [&]<typename Unit>() {
    const int64_t units = row_bytes / static_cast<int64_t>(sizeof(Unit));
    f.template operator()<Unit>(static_cast<uint32_t>(divide_up(count * units, kThreads)),
                                static_cast<uint32_t>(units));
  };
  if (row_bytes % 16 == 0 && aligned(a) && aligned(b))
    with.template operator()<uint4>();
  else if (row_bytes % 4 == 0 && aligned(a, 4) && aligned(b, 4))
    with.template operator()<uint32_t>();
  else
    with.template operator()<uint16_t>();
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads)
    embedding_forward_kernel(T* out, const T* table, const T* position_table, const int32_t* tokens,
                             const int32_t* positions, uint32_t rows, uint32_t columns) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t vectors = columns / W, row = i / vectors, c = i % vectors * W;
  if (row >= rows) return;
  float x[W];
  load<T, W>(x, table + static_cast<int64_t>(tokens[row]) * columns + c);
  if (position_table != nullptr) {
    float y[W];
    load<T, W>(y, position_table + static_cast<int64_t>(positions[row]) * columns + c);
#pragma unroll
    for (int e = 0; e < W; ++e) x[e] += y[e];
  }
  store<T, W>(out + static_cast<int64_t>(row) * columns + c, x);
}

// The sorted rows are cut into tiles. A run of equal indices that lies inside a tile is added to
// the table by that tile; of a run that crosses an edge, each tile leaves its part in `partial`
// [tiles, 2, columns]: first the part that goes on from the tile before, then the part that goes on
// into the next. join_runs_kernel adds these up in order. So a row of the table has one writer.
struct EmbeddingBackward {
  float* table;
  const void* grad;
  const int32_t *indices, *order;
  float* partial;
  int64_t rows, columns;
  int tile;
};

template <typename T, int W>
__global__ void __launch_bounds__(kThreads) add_runs_kernel(EmbeddingBackward g) {
  constexpr int kAhead = 4;  // rows in flight
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * W;
  if (column >= g.columns) return;
  const T* grad = static_cast<const T*>(g.grad);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * g.tile;
  const int64_t end = begin + g.tile < g.rows ? begin + g.tile : g.rows;
  const auto index = [&](int64_t i) { return g.indices[g.order[i]]; };
  const int32_t before = begin > 0 ? index(begin - 1) : -1;
  const int32_t after = end < g.rows ? index(end) : -1;
  float sum[W] = {};
  int32_t current = index(begin);
  bool from_before = current == before;

  const auto finish = [&](bool goes_on) {
    if (from_before || goes_on) {  // spanning the whole tile counts as going on from before
      const int64_t slot = static_cast<int64_t>(blockIdx.x) * 2 + (from_before ? 0 : 1);
      store<float, W>(g.partial + slot * g.columns + column, sum);
    } else {
      float* to = g.table + current * g.columns + column;
      float total[W];
      load<float, W>(total, to);
#pragma unroll
      for (int e = 0; e < W; ++e) total[e] += sum[e];
      store<float, W>(to, total);
    }
  };

  for (int64_t first = begin; first < end; first += kAhead) {
    Packed<T, W> ahead[kAhead];
    int32_t of[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (first + a >= end) continue;
      const int64_t row = g.order[first + a];
      of[a] = g.indices[row];
      ahead[a].load(grad + row * g.columns + column);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (first + a >= end) continue;
      if (of[a] != current) {
        finish(false);
        current = of[a];
        from_before = false;
#pragma unroll
        for (int e = 0; e < W; ++e) sum[e] = 0;
      }
      float x[W];
      ahead[a].to(x);
#pragma unroll
      for (int e = 0; e < W; ++e) sum[e] += x[e];
    }
  }
  finish(current == after);
}

// For the run, if any, that begins in this tile and goes on into the next.
template <typename T, int W>
__global__ void __launch_bounds__(kThreads) join_runs_kernel(EmbeddingBackward g) {
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * W;
  if (column >= g.columns) return;
  const auto index = [&](int64_t i) { return g.indices[g.order[i]]; };
  int64_t tile = blockIdx.x;
  const int64_t begin = tile * g.tile, end = begin + g.tile;
  if (end >= g.rows) return;
  const int32_t run = index(end - 1);
  if (index(end) != run) return;
  if (begin > 0 && index(begin - 1) == run) return;  // it began before
  float sum[W];
  load<float, W>(sum, g.partial + (tile * 2 + 1) * g.columns + column);
  for (++tile; tile * g.tile < g.rows && index(tile * g.tile) == run; ++tile) {
    float x[W];
    load<float, W>(x, g.partial + tile * 2 * g.columns + column);
#pragma unroll
    for (int e = 0; e < W; ++e) sum[e] += x[e];
  }
  float* to = g.table + run * g.columns + column;
  float total[W];
  load<float, W>(total, to);
#pragma unroll
  for (int e = 0; e < W; ++e) total[e] += sum[e];
  store<float, W>(to, total);
}

}  // namespace

void gather_rows(void* out, const void* in, const int32_t* rows, int64_t count, int64_t row_bytes,
                 cudaStream_t stream) {
  if (count == 0) return;
  by_unit(out, in, count, row_bytes, [&]<typename Unit>(uint32_t blocks, uint32_t units) {
    gather_kernel<Unit><<<blocks, kThreads, 0, stream>>>(static_cast<Unit*>(out),
                                                         static_cast<const Unit*>(in), rows,
                                                         static_cast<uint32_t>(count), units);
  });
}

void scatter_rows(void* out, const void* in, const int32_t* rows, int64_t count, int64_t all,
                  int64_t row_bytes, cudaStream_t stream) {
  if (all == 0) return;
  cudaMemsetAsync(out, 0, static_cast<size_t>(all * row_bytes), stream);
  if (count == 0) return;
  by_unit(out, in, count, row_bytes, [&]<typename Unit>(uint32_t blocks, uint32_t units) {
    scatter_kernel<Unit><<<blocks, kThreads, 0, stream>>>(static_cast<Unit*>(out),
                                                          static_cast<const Unit*>(in), rows,
                                                          static_cast<uint32_t>(count), units);
  });
}

void embedding_forward(Type type, void* out, const void* table, const void* position_table,
                       const int32_t* tokens, const int32_t* positions, int64_t rows,
                       int64_t columns, cudaStream_t stream) {
  if (rows == 0) return;
  const bool by_eight =
      columns % 8 == 0 && aligned(out) && aligned(table) && aligned(position_table);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    const auto blocks = static_cast<uint32_t>(divide_up(rows * (columns / W), kThreads));
    embedding_forward_kernel<T, W><<<blocks, kThreads, 0, stream>>>(
        static_cast<T*>(out), static_cast<const T*>(table), static_cast<const T*>(position_table),
        tokens, positions, static_cast<uint32_t>(rows), static_cast<uint32_t>(columns));
  });
}

void embedding_backward(Type type, float* grad_table, const void* grad_out, const int32_t* indices,
                        const int32_t* order, int64_t rows, int64_t columns, Workspace workspace,
                        cudaStream_t stream) {
  if (rows == 0) return;
  EmbeddingBackward g{grad_table, grad_out, indices, order, static_cast<float*>(workspace.data),
                      rows,       columns,  64};
  const auto bytes = [&] {
    return divide_up(rows, g.tile) * 2 * columns * static_cast<int64_t>(sizeof(float));
  };
  while (bytes() > workspace.bytes) g.tile *= 2;
  const bool by_eight = columns % 8 == 0 && aligned(grad_table) && aligned(grad_out);
  dispatch(type, by_eight, [&]<typename T, int W>() {
    const dim3 grid(static_cast<uint32_t>(divide_up(rows, g.tile)),
                    static_cast<uint32_t>(divide_up(columns, kThreads * W)));
    add_runs_kernel<T, W><<<grid, kThreads, 0, stream>>>(g);
    join_runs_kernel<T, W><<<grid, kThreads, 0, stream>>>(g);
  });
}

}  // namespace train_sft::ops::cuda
