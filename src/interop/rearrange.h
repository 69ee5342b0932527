// The orders in which other tools keep a matrix. Sources and results are row-major.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace train_sft {

std::vector<float> transposed(std::span<const float> matrix, int64_t rows, int64_t columns);

// llama.cpp's rotary kernel wants the channels that turn together side by side: row half * D/2 + i
// of each head (D rows) becomes row 2i + half; and back. `rows` of all heads; the rest is columns.
std::vector<float> permuted_rotary(std::span<const float> matrix, int64_t heads, int64_t rows);
std::vector<float> unpermuted_rotary(std::span<const float> matrix, int64_t heads, int64_t rows);

}  // namespace train_sft
