#include "interop/rearrange.h"

#include <algorithm>

namespace train_sft {
namespace {

// copy(from, to) for each row: from in transformers' order, to in llama.cpp's.
template <typename Copy>
void for_each_row(int64_t heads, int64_t rows, Copy copy) {
  const int64_t head = rows / heads, half = head / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t within = row % head;
    copy(row, row - within + within % half * 2 + within / half);
  }
}

}  // namespace

std::vector<float> transposed(std::span<const float> matrix, int64_t rows, int64_t columns) {
  std::vector<float> out(matrix.size());
  constexpr int64_t kSquare = 32;  // both sides of a square stay in the cache
  for (int64_t r0 = 0; r0 < rows; r0 += kSquare)
    for (int64_t c0 = 0; c0 < columns; c0 += kSquare)
      for (int64_t r = r0; r < std::min(rows, r0 + kSquare); ++r)
        for (int64_t c = c0; c < std::min(columns, c0 + kSquare); ++c)
          out[static_cast<size_t>(c * rows + r)] = matrix[static_cast<size_t>(r * columns + c)];
  return out;
}

std::vector<float> permuted_rotary(std::span<const float> matrix, int64_t heads, int64_t rows) {
  std::vector<float> out(matrix.size());
  const int64_t columns = static_cast<int64_t>(matrix.size()) / rows;
  for_each_row(heads, rows, [&](int64_t ours, int64_t theirs) {
    std::copy_n(matrix.begin() + ours * columns, columns, out.begin() + theirs * columns);
  });
  return out;
}

std::vector<float> unpermuted_rotary(std::span<const float> matrix, int64_t heads, int64_t rows) {
  std::vector<float> out(matrix.size());
  const int64_t columns = static_cast<int64_t>(matrix.size()) / rows;
  for_each_row(heads, rows, [&](int64_t ours, int64_t theirs) {
    std::copy_n(matrix.begin() + theirs * columns, columns, out.begin() + ours * columns);
  });
  return out;
}

}  // namespace train_sft
