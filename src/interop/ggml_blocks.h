// One block of each of ggml's block formats to floats and back.
#pragma once

#include <cstddef>

namespace train_sft::ggml {

// block: as many bytes as the format's block has; out: 32 values, 256 of the _k formats.
void dequantize_q4_0(const std::byte* block, float* out);
void dequantize_q4_1(const std::byte* block, float* out);
void dequantize_q5_0(const std::byte* block, float* out);
void dequantize_q5_1(const std::byte* block, float* out);
void dequantize_q8_0(const std::byte* block, float* out);
void dequantize_q4_k(const std::byte* block, float* out);
void dequantize_q5_k(const std::byte* block, float* out);
void dequantize_q6_k(const std::byte* block, float* out);

void quantize_q8_0(const float* values, std::byte* block);  // 32 values, 34 bytes

}  // namespace train_sft::ggml
