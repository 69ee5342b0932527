#include "ops/simd/fill.h"

namespace train_sft::ops::TRAIN_SFT_ISA {

void fill(simd::Table& table) {
  fill_gemm(table);
  fill_norm(table);
  fill_qk_norm(table);
  fill_elementwise(table);
  fill_normal(table);
  fill_reductions(table);
  fill_attention(table);
}

}  // namespace train_sft::ops::TRAIN_SFT_ISA
