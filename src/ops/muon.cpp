#include "train_sft/ops/muon.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ops/dispatch.h"
#include "ops/gemm.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

// Steepest at zero, so that five iterations bring singular values from 1e-3 up near 1; they stay
// between about 0.7 and 1.2, which serves as well as 1.
constexpr float kA = 3.4445F, kB = -4.7750F, kC = 2.0315F;
constexpr int kIterations = 5;

// Of AdamW's update, by the longer side.
double size_of_update(int64_t m) {
  return 0.2 * std::sqrt(static_cast<double>(m));
}

// Where what is kept beside x stands in the scratch: on whole cache lines, for a device's products.
struct MuonParts {
  int64_t other, a, a2, total;
};
MuonParts parts_of(const MuonShape& shape) {
  const auto whole_lines = [](int64_t elements) { return (elements + 63) / 64 * 64; };
  const int64_t n = std::min(shape.rows, shape.columns);
  const int64_t matrix = whole_lines(shape.rows * shape.columns), square = whole_lines(n * n);
  return {matrix, 2 * matrix, 2 * matrix + square, 2 * (matrix + square)};
}

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
  return parts_of(shape).total;
}

void muon(const at::Tensor& master, const at::Tensor& compute, const at::Tensor& grad,
          const at::Tensor& momentum, const at::Tensor& scratch, const MuonShape& shape,
          const MuonStep& step) {
  const profile::Scope scope("muon");
  const int64_t R = shape.rows, C = shape.columns, whole = R * shape.stride;
  TRAIN_SFT_CHECK(shape.first_column + C <= shape.stride, "columns {} … of {}", shape.first_column,
                  shape.stride);
  const MuonParts parts = parts_of(shape);
  TRAIN_SFT_CHECK(scratch.numel() >= parts.total, "{} floats of scratch for {} × {}",
                  scratch.numel(), R, C);
  float* w = data_of<float>(master, whole);
  float* v = data_of<float>(momentum, whole);
  const float* g = data_of<float>(grad, whole);
  const bool turned = R > C;
  const int64_t n = std::min(R, C), m = std::max(R, C);
  float* x = data_of<float>(scratch, scratch.numel());
  float *other = x + parts.other, *a = x + parts.a, *a2 = x + parts.a2;
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
  const auto unit = static_cast<float>(1 / std::max(std::sqrt(squares), kMuonLeastNorm));
  for (int64_t k = 0; k < n * m; ++k) x[k] *= unit;
  const float* o = newton_schulz(x, other, a, a2, n, m);

  const auto keep = static_cast<float>(1 - step.lr * step.weight_decay);
  const auto rate = static_cast<float>(step.lr * size_of_update(m));
  for (int64_t r = 0; r < R; ++r)
    for (int64_t c = 0; c < C; ++c) w[at(r, c)] = w[at(r, c)] * keep - rate * o[in_x(r, c)];
  if (!compute.defined()) return;
  for_dtype(compute.scalar_type(), [&]<typename T>() {
    T* copy = data_of<T>(compute, whole);
    for (int64_t r = 0; r < R; ++r)
      for (int64_t c = 0; c < C; ++c) copy[at(r, c)] = static_cast<T>(w[at(r, c)]);
  });
}

void muon_on_device(const DeviceTable& device, const at::Tensor& master, const at::Tensor& compute,
                    const at::Tensor& grad, const at::Tensor& momentum, const at::Tensor& scratch,
                    double* squares, const MuonShape& shape, const DeviceUpdate* update,
                    const MuonStep& step) {
  const MuonParts parts = parts_of(shape);
  TRAIN_SFT_CHECK(scratch.numel() >= parts.total, "{} elements of scratch for {} × {}",
                  scratch.numel(), shape.rows, shape.columns);
  const int64_t n = std::min(shape.rows, shape.columns), m = std::max(shape.rows, shape.columns);
  // As it lies: of a matrix that is higher than wide, A = XᵀX and X ← X(aI + bA + cA²).
  const bool high = shape.rows > shape.columns;
  const auto part = [&](int64_t offset, int64_t rows, int64_t columns) {
    return scratch.narrow(0, offset, rows * columns).view({rows, columns});
  };
  at::Tensor x = part(0, shape.rows, shape.columns);
  at::Tensor other = part(parts.other, shape.rows, shape.columns);
  const at::Tensor a = part(parts.a, n, n), factor = part(parts.a2, n, n);
  device.muon_momentum(momentum, squares, grad, shape, step.momentum, update);
  device.muon_unit(x, momentum, grad, squares, shape, step.momentum, update);
  for (int i = 0; i < kIterations; ++i) {
    device.gemm(a, x, high, x, !high, 1, {}, false);
    device.scale_shift(factor, a, kB, kA);
    device.gemm(factor, a, false, a, false, kC, {}, true);
    if (high)
      device.gemm(other, x, false, factor, false, 1, {}, false);
    else
      device.gemm(other, factor, false, x, false, 1, {}, false);
    std::swap(x, other);
  }
  device.muon_apply(master, compute, x, shape, size_of_update(m), step.weight_decay, update);
}

}  // namespace train_sft::ops
