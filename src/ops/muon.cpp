#include "train_sft/ops/muon.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ops/dispatch.h"
#include "ops/gemm.h"
#include "train_sft/base/profile.h"

namespace train_sft::ops {
namespace {

// Steepest at zero, so that five iterations bring singular values from 1e-3 up near 1; they stay
// between about 0.7 and 1.2, which serves as well as 1.
constexpr float kA = 3.4445F, kB = -4.7750F, kC = 2.0315F;
constexpr int kIterations = 5;
constexpr double kLeastNorm = 1e-7;
constexpr double kSizeOfAdamW = 0.2;

// X ← aX + (bA + cA²)X with A = XXᵀ, of a short × long matrix. Returns where X is then: x or other.
float* newton_schulz(float* x, float* other, float* a, float* a2, int64_t n, int64_t m) {
  for (int i = 0; i < kIterations; ++i) {
    gemm<float, float>(a, n, {n, n, m}, {x, m}, {x, m, true}, nullptr, false);
    gemm<float, float>(a2, n, {n, n, n}, {a, n}, {a, n}, nullptr, false);
    for (int64_t k = 0; k < n * n; ++k) a2[k] = kB * a[k] + kC * a2[k];
    for (int64_t k = 0; k < n * m; ++k) other[k] = kA * x[k];
    gemm<float, float>(other, m, {n, m, n}, {a2, n}, {x, m}, nullptr, true);
    std::swap(x, other);
  }
  return x;
}

}  // namespace

int64_t muon_scratch(const MuonShape& shape) {
  const int64_t n = std::min(shape.rows, shape.columns);
  return 2 * (shape.rows * shape.columns + n * n);
}

void muon(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
          const at::Tensor& momentum, const at::Tensor& scratch, const MuonShape& shape,
          const MuonStep& step) {
  const profile::Scope scope("muon");
  const int64_t R = shape.rows, C = shape.columns, whole = R * shape.stride;
  TRAIN_SFT_CHECK(shape.first_column + C <= shape.stride, "columns {} … of {}", shape.first_column,
                  shape.stride);
  TRAIN_SFT_CHECK(scratch.numel() >= muon_scratch(shape), "{} floats of scratch for {} × {}",
                  scratch.numel(), R, C);
  float* w = data_of<float>(master, whole);
  float* v = data_of<float>(momentum, whole);
  const float* g = data_of<float>(grad, whole);
  const bool turned = R > C;
  const int64_t n = std::min(R, C), m = std::max(R, C);
  float* x = data_of<float>(scratch, scratch.numel());
  float *other = x + n * m, *a = other + n * m, *a2 = a + n * n;
  // Where element (r, c) stands in the parameter, and in x.
  const auto at = [&](int64_t r, int64_t c) { return r * shape.stride + shape.first_column + c; };
  const auto in_x = [&](int64_t r, int64_t c) { return turned ? c * m + r : r * m + c; };

  const auto mu = static_cast<float>(step.momentum), scale = static_cast<float>(step.grad_scale);
  double squares = 0;
  for (int64_t r = 0; r < R; ++r)
    for (int64_t c = 0; c < C; ++c) {
      const float gradient = g[at(r, c)] * scale;
      float& moment = v[at(r, c)];
      moment += (1 - mu) * (gradient - moment);
      const float value = gradient + mu * (moment - gradient);
      x[in_x(r, c)] = value;
      squares += static_cast<double>(value) * value;
    }
  const auto unit = static_cast<float>(1 / std::max(std::sqrt(squares), kLeastNorm));
  for (int64_t k = 0; k < n * m; ++k) x[k] *= unit;
  const float* o = newton_schulz(x, other, a, a2, n, m);

  const auto keep = static_cast<float>(1 - step.lr * step.weight_decay);
  const auto rate = static_cast<float>(step.lr * kSizeOfAdamW * std::sqrt(static_cast<double>(m)));
  for (int64_t r = 0; r < R; ++r)
    for (int64_t c = 0; c < C; ++c) w[at(r, c)] = w[at(r, c)] * keep - rate * o[in_x(r, c)];
  if (!compute.defined()) return;
  for_dtype(compute.scalar_type(), [&]<typename T>() {
    T* copy = data_of<T>(compute, whole);
    for (int64_t r = 0; r < R; ++r)
      for (int64_t c = 0; c < C; ++c) copy[at(r, c)] = static_cast<T>(w[at(r, c)]);
  });
}

}  // namespace train_sft::ops
