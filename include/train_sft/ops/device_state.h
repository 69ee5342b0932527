// What a device's kernels and the host share byte for byte: plain numbers in device memory, so that
// a step runs without the host waiting. Includes no header of torch, for nvcc.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define TRAIN_SFT_DEVICE __host__ __device__
#else
#define TRAIN_SFT_DEVICE
#endif

namespace train_sft::ops {

// Sums over the micro-batches of a step; micro-steps add to them. Padding has weight 0, and what
// has weight 0 is not counted.
struct DeviceSums {
  double loss = 0;            // Σ weight × −log p(target)
  double weight = 0;          // Σ weight
  double tokens = 0;          // learned targets of weight ≠ 0
  double correct = 0;         // of which the target was the arg max
  double sum_of_squares = 0;  // of the gradient sums; added to by sum_of_squares()
};

inline constexpr double kNoLimit = 1.7976931348623157e308;

// The state of the update. The host writes the first three before each update, and `t` too when it
// knows it: at the start, a resume, after it has waited. All else is written by prepare_update().
struct DeviceUpdate {
  double lr = 0;
  double loss_limit = kNoLimit;  // with more than these, which are finite, the update is skipped
  double grad_norm_limit = kNoLimit;
  double t = 0;                 // updates applied, this one included unless it is skipped
  double skip = 0;              // 1: no weight, moment or copy is written
  double weight = 0;            // Σ weight of the step
  double loss = 0;              // Σ loss / Σ weight
  double grad_norm = 0;         // √sum_of_squares / Σ weight, before clipping
  double grad_scale = 0;        // clip factor / Σ weight
  double bias_correction1 = 1;  // 1 − beta1^t
  double bias_correction2 = 1;
};

// What does not change over a run: by value, also into a captured graph.
struct UpdateSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double grad_clip = 1;  // 0: none
};

// Of what Muon makes orthogonal: less is no direction.
inline constexpr double kMuonLeastNorm = 1e-7;

// Between the gradients and adamw(): the norm, whether to skip, the clip factor (as
// torch.nn.utils.clip_grad_norm_ has it). Zeroes the sums for the next step. One thread's work.
TRAIN_SFT_DEVICE inline void prepare_update(DeviceUpdate& update, DeviceSums& sums,
                                            const UpdateSettings& settings) {
  const bool any = sums.weight > 0;
  update.weight = sums.weight;
  update.loss = any ? sums.loss / sums.weight : 0;
  update.grad_norm = any ? std::sqrt(sums.sum_of_squares) / sums.weight : 0;
  // NaN compares false, too.
  const bool within = update.loss >= -kNoLimit && update.loss <= update.loss_limit &&
                      update.grad_norm <= update.grad_norm_limit;
  update.skip = any && within ? 0 : 1;
  sums = DeviceSums{};
  if (update.skip != 0) return;
  update.t += 1;
  update.bias_correction1 = 1 - std::pow(settings.beta1, update.t);
  update.bias_correction2 = 1 - std::pow(settings.beta2, update.t);
  double clip = 1;
  if (settings.grad_clip > 0) {
    clip = settings.grad_clip / (update.grad_norm + 1e-6);
    if (clip > 1) clip = 1;
  }
  update.grad_scale = clip / update.weight;
}

}  // namespace train_sft::ops
