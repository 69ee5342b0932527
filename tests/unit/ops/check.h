// Random tensors and comparisons for the tests of ops.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "train_sft/ops/kernels.h"

namespace train_sft::ops {

// Uniform in [-1, 1), the same on every machine.
inline at::Tensor random_tensor(std::vector<int64_t> sizes, uint64_t seed,
                                at::ScalarType dtype = at::kDouble) {
  at::Tensor values = at::empty(sizes, at::kDouble);
  double* x = values.data_ptr<double>();
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (int64_t i = 0; i < values.numel(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    x[i] = static_cast<double>(state >> 11) * 0x1p-52 - 1;
  }
  return values.to(dtype);
}

// Largest |a - b| over the largest |b| (at least 1e-30).
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor da = a.to(at::kDouble), db = b.to(at::kDouble);
  const double scale = std::max(db.abs().max().item<double>(), 1e-30);
  return da.sub(db).abs().max().item<double>() / scale;
}

// `gradient` against central differences of `loss` in every element of x (double).
inline void expect_gradient(at::Tensor& x, const at::Tensor& gradient,
                            const std::function<double()>& loss, const std::string& name) {
  ASSERT_EQ(x.numel(), gradient.numel()) << name;
  const double h = 1e-6;
  double* values = x.data_ptr<double>();
  const double* analytic = gradient.data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double before = values[i];
    values[i] = before + h;
    const double above = loss();
    values[i] = before - h;
    const double below = loss();
    values[i] = before;
    const double numeric = (above - below) / (2 * h);
    ASSERT_NEAR(analytic[i], numeric, 2e-8 + 2e-7 * std::abs(numeric)) << name << "[" << i << "]";
  }
}

inline double weighted_sum(const at::Tensor& a, const at::Tensor& b) {
  return a.mul(b).sum().item<double>();
}

// Runs f(name) with each set of fast kernels that this machine has.
inline void for_fast_kernels(const std::function<void(const std::string&)>& f) {
  for (Kernels kernels : {Kernels::avx2, Kernels::avx512}) {
    if (!machine_runs(kernels)) continue;
    KernelsOverride override(kernels);
    f(kernels_name(kernels));
  }
}

}  // namespace train_sft::ops
