// Which implementation of the ops runs. Every op has a plain reference (templates over the dtype,
// simple loops) and fast kernels for float and bfloat16, compiled once per instruction set.
#pragma once

namespace train_sft::ops {

enum class Kernels {
  reference,  // any x86-64; also what double always runs
  avx2,       // AVX2, FMA, F16C
  avx512,     // AVX-512 F, BW, DQ, VL (and its bfloat16 products where the machine has them)
};

// Detected once. The environment variable TRAIN_SFT_CPU=reference|avx2|avx512 chooses another;
// throws UsageError when its value is unknown or the machine lacks the instructions.
Kernels kernels();
const char* kernels_name(Kernels kernels);
bool machine_runs(Kernels kernels);

// For tests and benchmarks: runs `kernels` while it lives.
class KernelsOverride {
 public:
  explicit KernelsOverride(Kernels kernels);
  ~KernelsOverride();
  KernelsOverride(const KernelsOverride&) = delete;
  KernelsOverride& operator=(const KernelsOverride&) = delete;

 private:
  Kernels previous_;
};

}  // namespace train_sft::ops
