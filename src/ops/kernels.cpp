#include "train_sft/ops/kernels.h"

#include <cstdlib>
#include <string_view>

#include "ops/fast.h"
#include "train_sft/base/error.h"

namespace train_sft::ops {
namespace {

constexpr Kernels kAll[] = {Kernels::avx512, Kernels::avx2, Kernels::reference};

Kernels choose() {
  const char* wanted = std::getenv("TRAIN_SFT_CPU");
  if (wanted != nullptr && *wanted != '\0') {
    for (Kernels candidate : kAll) {
      if (std::string_view(wanted) != kernels_name(candidate)) continue;
      if (!machine_runs(candidate)) {
        throw UsageError("TRAIN_SFT_CPU={}: this machine lacks these instructions; unset it",
                         wanted);
      }
      return candidate;
    }
    throw UsageError("TRAIN_SFT_CPU={}: expected avx512, avx2 or reference", wanted);
  }
  for (Kernels candidate : kAll) {
    if (machine_runs(candidate)) return candidate;
  }
  return Kernels::reference;
}

Kernels& current() {
  static Kernels chosen = choose();
  return chosen;
}

simd::Table avx2_table() {
  simd::Table table;
  avx2::fill(table);
  return table;
}

simd::Table avx512_table() {
  simd::Table table;
  avx512::fill(table);
  if (__builtin_cpu_supports("avx512bf16")) {
    avx512bf16::fill_gemm(table);
    avx512bf16::fill_attention(table);
  }
  return table;
}

}  // namespace

Kernels kernels() {
  return current();
}

const char* kernels_name(Kernels kernels) {
  switch (kernels) {
    case Kernels::avx512:
      return "avx512";
    case Kernels::avx2:
      return "avx2";
    default:
      return "reference";
  }
}

bool machine_runs(Kernels kernels) {
  switch (kernels) {
    case Kernels::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Kernels::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    default:
      return true;
  }
}

const simd::Table* simd_table() {
  static const simd::Table avx2 = avx2_table(), avx512 = avx512_table();
  switch (kernels()) {
    case Kernels::avx512:
      return &avx512;
    case Kernels::avx2:
      return &avx2;
    default:
      return nullptr;
  }
}

KernelsOverride::KernelsOverride(Kernels kernels) : previous_(current()) {
  TRAIN_SFT_CHECK(machine_runs(kernels), "no {} here", kernels_name(kernels));
  current() = kernels;
}

KernelsOverride::~KernelsOverride() {
  current() = previous_;
}

}  // namespace train_sft::ops
