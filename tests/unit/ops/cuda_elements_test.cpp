// The arithmetic of CUDA's kernels, element by element on the host, against the CPU's ops.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "check.h"
#include "ops/cuda/elements.h"
#include "train_sft/ops/adamw.h"
#include "train_sft/ops/gelu.h"
#include "train_sft/ops/swiglu.h"

namespace train_sft::ops {
namespace {

constexpr cuda::Accuracy kFull = cuda::Accuracy::full;

TEST(CudaElements, Activations) {
  const int64_t n = 4096;
  const at::Tensor x = random_tensor({1, 2 * n}, 1).mul(12), grad = random_tensor({1, n}, 2);
  const at::Tensor inputs = x.narrow(1, 0, n).contiguous();
  const at::Tensor out = at::empty_like(grad), slope = at::empty_like(grad);
  const at::Tensor gated = at::empty_like(grad), slopes = at::empty_like(x);
  gelu_forward(out, inputs);
  gelu_backward(slope, grad, inputs);
  swiglu_forward(gated, x);
  swiglu_backward(slopes, grad, x);
  const double* in = x.data_ptr<double>();
  const double* dy = grad.data_ptr<double>();
  for (int64_t i = 0; i < n; ++i) {
    const auto a = static_cast<float>(in[i]), up = static_cast<float>(in[n + i]);
    const auto g = static_cast<float>(dy[i]);
    const auto near = [&](float got, double expected) {
      EXPECT_NEAR(got, expected, 3e-6 * std::max(1.0, std::abs(expected))) << "at " << in[i];
    };
    near(cuda::gelu<kFull>(a), out.data_ptr<double>()[i]);
    near(g * cuda::gelu_slope<kFull>(a), slope.data_ptr<double>()[i]);
    near(cuda::swiglu<kFull>(a, up), gated.data_ptr<double>()[i]);
    const cuda::SwigluSlopes s = cuda::swiglu_slopes<kFull>(g, a, up);
    near(s.gate, slopes.data_ptr<double>()[i]);
    near(s.up, slopes.data_ptr<double>()[n + i]);
  }
  for (float far : {-1e4f, -300.0f}) {  // exp overflows
    EXPECT_EQ(cuda::gelu<kFull>(far), 0);
    EXPECT_EQ(cuda::gelu_slope<kFull>(far), 0);
  }
}

TEST(CudaElements, AdamWIsTheReferences) {
  const KernelsOverride plain(Kernels::reference);
  const int64_t n = 1000;
  const at::Tensor master = random_tensor({n}, 3, at::kFloat), m = at::zeros({n}),
                   v = at::zeros({n});
  const UpdateSettings settings{0.9, 0.95, 1e-8, 1};
  DeviceUpdate update{3e-3};
  std::vector<cuda::AdamWElement> elements(n);
  for (int64_t i = 0; i < n; ++i) elements[i] = {master.data_ptr<float>()[i], 0, 0};
  for (int step = 1; step <= 5; ++step) {
    const at::Tensor grad = random_tensor({n}, 10 + step, at::kFloat);
    DeviceSums sums{40, 20, 20, 3, sum_of_squares(grad)};
    prepare_update(update, sums, settings);
    EXPECT_EQ(update.t, step);
    const double norm = std::sqrt(sum_of_squares(grad)) / 20;
    EXPECT_DOUBLE_EQ(update.grad_norm, norm);
    EXPECT_DOUBLE_EQ(update.loss, 2);
    AdamWStep s;
    s.lr = 3e-3;
    s.weight_decay = 0.1;
    s.bias_correction1 = 1 - std::pow(0.9, step);
    s.bias_correction2 = 1 - std::pow(0.95, step);
    s.grad_scale = std::min(1.0, 1 / (norm + 1e-6)) / 20;
    adamw(master, {}, grad, m, v, s);
    const cuda::AdamWFactors factors = cuda::adamw_factors(update, settings, 0.1);
    for (int64_t i = 0; i < n; ++i)
      elements[i] = cuda::adamw_element(elements[i], grad.data_ptr<float>()[i], factors);
  }
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_FLOAT_EQ(elements[i].master, master.data_ptr<float>()[i]);
    EXPECT_FLOAT_EQ(elements[i].exp_avg, m.data_ptr<float>()[i]);
    EXPECT_FLOAT_EQ(elements[i].exp_avg_sq, v.data_ptr<float>()[i]);
  }
}

TEST(CudaElements, WhatIsNotFiniteSkips) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const UpdateSettings settings;
  DeviceSums bad[] = {{nan, 1, 1, 0, 1},
                      {1, 1, 1, 0, nan},
                      {infinity, 1, 1, 0, 1},
                      {1, 1, 1, 0, infinity},
                      {0, 0, 0, 0, 0}};
  for (DeviceSums& sums : bad) {
    DeviceUpdate update;
    update.lr = 0.5;
    update.t = 7;
    prepare_update(update, sums, settings);
    EXPECT_EQ(update.skip, 1);
    EXPECT_EQ(update.t, 7);
    EXPECT_EQ(update.lr, 0.5);
    sums = {1, 1, 1, 0, 1};
    prepare_update(update, sums, settings);
    EXPECT_EQ(update.skip, 0);
    EXPECT_EQ(update.t, 8);
  }
}

TEST(CudaElements, ScalesOfEightBits) {
  EXPECT_FLOAT_EQ(cuda::next_scale(1, 2, 448, 0), 224);
  EXPECT_FLOAT_EQ(cuda::next_scale(1, 2, 448, 1), 112);
  EXPECT_EQ(cuda::next_scale(3, 0, 448, 0), 3);
  EXPECT_EQ(cuda::next_scale(3, std::nanf(""), 448, 0), 3);
  EXPECT_EQ(cuda::next_scale(3, INFINITY, 448, 0), 3);
  EXPECT_EQ(cuda::next_scale(3, 1e-38f, 57344, 0), 3);  // its scale would be infinite
}

}  // namespace
}  // namespace train_sft::ops
