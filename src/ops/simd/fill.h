// Each kernel file enters its functions in the table.
#pragma once

#include "ops/simd/table.h"

namespace train_sft::ops::TRAIN_SFT_ISA {

void fill_gemm(simd::Table& table);
void fill_norm(simd::Table& table);
void fill_qk_norm(simd::Table& table);
void fill_elementwise(simd::Table& table);
void fill_normal(simd::Table& table);
void fill_reductions(simd::Table& table);
void fill_attention(simd::Table& table);

}  // namespace train_sft::ops::TRAIN_SFT_ISA
