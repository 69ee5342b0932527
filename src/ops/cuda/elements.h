// The arithmetic of one element, for kernels and for the host, where tests hold it against the
// CPU's ops. No torch, and outside nvcc no CUDA header.
#pragma once

#include <cmath>
#include <cstdint>

#include "train_sft/ops/device_state.h"

namespace train_sft::ops::cuda {

// What rounding to bfloat16 leaves of a result does not need the last bits of exp and division.
enum class Accuracy { full, fast };

template <Accuracy kAccuracy>
TRAIN_SFT_DEVICE inline float exponential(float x) {
#if defined(__CUDA_ARCH__)
  if constexpr (kAccuracy == Accuracy::fast) return __expf(x);
#endif
  return expf(x);
}

// 1 / (1 + exp(-x)); 0 and 1 at the ends.
template <Accuracy kAccuracy>
TRAIN_SFT_DEVICE inline float sigmoid(float x) {
  const float e = 1.0f + exponential<kAccuracy>(-x);
#if defined(__CUDA_ARCH__)
  if constexpr (kAccuracy == Accuracy::fast) return __fdividef(1.0f, e);  // 0 where e is infinite
#endif
  return 1.0f / e;
}

constexpr float kSqrt2OverPiF = 0.79788456080286535588f;
constexpr float kCubicF = 0.044715f;

// 0.5 (1 + tanh(u)) = sigmoid(2u): GELU's tanh form without tanh, and without its cancellation for
// negative x.
template <Accuracy kAccuracy>
TRAIN_SFT_DEVICE inline float gelu(float x) {
  return x * sigmoid<kAccuracy>(2 * kSqrt2OverPiF * (x + kCubicF * x * x * x));
}

template <Accuracy kAccuracy>
TRAIN_SFT_DEVICE inline float gelu_slope(float x) {
  const float s = sigmoid<kAccuracy>(2 * kSqrt2OverPiF * (x + kCubicF * x * x * x));
  const float inner = kSqrt2OverPiF * (1 + 3 * kCubicF * x * x);
  return s + 2 * x * s * (1 - s) * inner;
}

template <Accuracy kAccuracy>
TRAIN_SFT_DEVICE inline float swiglu(float gate, float up) {
  return gate * sigmoid<kAccuracy>(gate) * up;
}

struct SwigluSlopes {
  float gate, up;
};

template <Accuracy kAccuracy>
TRAIN_SFT_DEVICE inline SwigluSlopes swiglu_slopes(float grad, float gate, float up) {
  const float s = sigmoid<kAccuracy>(gate);
  return {grad * up * s * (1 + gate * (1 - s)), grad * gate * s};
}

// AdamW's constants, narrowed as the CPU's.
struct AdamWFactors {
  float beta1, rest1, beta2, rest2, eps, grad_scale, keep, step_size, inverse_root;
};

TRAIN_SFT_DEVICE inline AdamWFactors adamw_factors(const DeviceUpdate& u, const UpdateSettings& s,
                                                   double weight_decay) {
  AdamWFactors f;
  f.beta1 = static_cast<float>(s.beta1);
  f.rest1 = static_cast<float>(1 - s.beta1);
  f.beta2 = static_cast<float>(s.beta2);
  f.rest2 = static_cast<float>(1 - s.beta2);
  f.eps = static_cast<float>(s.eps);
  f.grad_scale = static_cast<float>(u.grad_scale);
  f.keep = static_cast<float>(1 - u.lr * weight_decay);
  f.step_size = static_cast<float>(u.lr / u.bias_correction1);
  f.inverse_root = static_cast<float>(1 / sqrt(u.bias_correction2));
  return f;
}

struct AdamWElement {
  float master, exp_avg, exp_avg_sq;
};

TRAIN_SFT_DEVICE inline AdamWElement adamw_element(AdamWElement e, float grad,
                                                   const AdamWFactors& f) {
  const float g = grad * f.grad_scale;
  e.exp_avg = f.beta1 * e.exp_avg + f.rest1 * g;
  e.exp_avg_sq = f.beta2 * e.exp_avg_sq + f.rest2 * g * g;
  const float denominator = sqrtf(e.exp_avg_sq) * f.inverse_root + f.eps;
  e.master = e.master * f.keep - f.step_size * e.exp_avg / denominator;
  return e;
}

// One step of delayed scaling: the new scale, or the old one where the history says nothing.
TRAIN_SFT_DEVICE inline float next_scale(float scale, float highest, float largest, double margin) {
  const bool usable = highest > 0 && highest - highest == 0;
  if (!usable) return scale;
  const auto next = static_cast<float>(largest / (highest * exp2(margin)));
  return next - next == 0 && next > 0 ? next : scale;
}

}  // namespace train_sft::ops::cuda
