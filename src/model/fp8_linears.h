// Linear layers with 8-bit operands (ops/fp8_linear.h): inputs and weights e4m3, gradients e5m2 or
// e4m3, one scale a tensor. Scales of inputs and gradients follow the largest of their last steps
// (delayed scaling, Micikevicius et al. 2022), those of weights are of the moment. Weights are
// rounded once a step, as they lie and transposed by one read.
//
// What a step leaves in the state does not depend on how its micro-batches were shared out: of the
// largest magnitudes only the largest counts, and scales that were found for the moment are kept
// apart.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/weights.h"
#include "train_sft/model/engine.h"
#include "train_sft/ops/fp8_linear.h"
#include "train_sft/ops/linear.h"

namespace train_sft {

// Of several tensors: the largest magnitudes of their last steps, and the scales that follow.
class Fp8Scales {
 public:
  Fp8Scales(const std::vector<ops::Fp8Format>& formats, int64_t history, double margin,
            c10::Device device);
  struct Slot {
    at::Tensor history, amax, scale, scale_inverse, largest;  // [1, H], [1] …: views
    ops::Fp8Format format;
  };
  const Slot& slot(size_t i) const { return slots_[i]; }
  // A slot's scale from what it is about to round.
  void find(const Slot& slot, const at::Tensor& tensor) const;
  void update(const Slot& slot) const;  // from its amax
  void update_all() const;
  void take_scales_of(const Fp8Scales& other) const;  // of as many tensors

  at::Tensor history, scale;  // [S, H], [S]: the state
  at::Tensor amax;            // [S]: what the step has met so far
  void restored() const;      // scale_inverse from scale

 private:
  double margin_;
  at::Tensor scale_inverse_, largest_;
  std::vector<Slot> slots_;
};

// Numbers the linear layers that have 8-bit operands, and gives their weights.
std::vector<at::Tensor> number_fp8(ModelWeights& weights, const std::vector<Fp8Linear>& linears);

class Fp8Linears {
 public:
  // weights: of the linear layers, by whose numbers they are called.
  Fp8Linears(const std::vector<at::Tensor>& weights, const Fp8Options& options);

  // As the ops of the same names in ops/linear.h. The weight's gradient is computed in the input's
  // dtype unless options.weight_gradient.
  void forward(const at::Tensor& out, const at::Tensor& input, const at::Tensor& weight,
               const at::Tensor& bias, ops::WeightLayout layout, int64_t linear);
  void backward_input(const at::Tensor& grad_input, const at::Tensor& grad_out,
                      ops::WeightLayout layout, int64_t linear);
  void backward_weight(const at::Tensor& grad_weight, const at::Tensor& input,
                       const at::Tensor& grad_out, ops::WeightLayout layout, int64_t linear);

  // After a micro-step: the weights were rounded, and are what they were until the step ends.
  void end_micro_step() { weights_are_rounded_ = true; }
  // The scales of the next step. The first step finds its scales as it goes. weights_known: the
  // update that follows finds the largest magnitudes of the new weights itself.
  void end_step(bool weights_known);
  // [2 · linears] float: the largest magnitudes that end_step() makes scales of; several processes
  // take the largest of all first. Undefined with current scaling, which remembers none.
  at::Tensor amax() const { return remembers() ? values_.amax : at::Tensor(); }
  // What an update raises to the largest magnitude of a weight that it writes.
  std::vector<WeightAmax> weight_amax() const;

  // Which kernels a micro-step runs.
  uint32_t kind() const {
    return (calibrated_ ? 1U : 0U) | (weights_are_rounded_ ? 2U : 0U) |
           (weights_are_known_ ? 4U : 0U);
  }

  // What a resume needs, by name: views of it on the device. restored() after they were written to.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  void restored();

  // Changes when scratch has moved: what was captured points to the old one.
  int64_t moves() const { return moves_; }

 private:
  bool remembers() const { return options_.history > 1; }
  bool finds_scales() const { return !remembers() || !calibrated_; }
  static size_t input_of(int64_t linear) { return static_cast<size_t>(2 * linear); }
  static size_t gradient_of(int64_t linear) { return static_cast<size_t>(2 * linear + 1); }
  ops::Fp8Operand weight_operand(int64_t linear, bool turned) const {
    const RoundedWeight& weight = rounded_weights_[static_cast<size_t>(linear)];
    const Fp8Scales::Slot& slot = weights_.slot(static_cast<size_t>(linear));
    return {turned ? weight.turned : weight.values, slot.scale_inverse, slot.format};
  }
  void round_weight(int64_t linear, const at::Tensor& weight);
  at::Tensor room(size_t place, int64_t rows, int64_t columns);
  // value: a slot of values_ and of found_.
  void find_scale(size_t value, const at::Tensor& tensor);
  ops::Fp8Operand rounded(const at::Tensor& tensor, size_t value, bool transposed, size_t place);

  Fp8Options options_;
  Fp8Scales values_;   // of each linear: its input, its gradient
  Fp8Scales found_;    // of the same, of the moment: in the first step, or always
  Fp8Scales weights_;  // of each linear
  struct RoundedWeight {
    at::Tensor values, turned;  // uint8: as it lies, and transposed
    int64_t offset = 0;         // of the weight, in the buffer of all
  };
  std::vector<RoundedWeight> rounded_weights_;
  bool calibrated_ = false;
  bool weights_are_rounded_ = false;  // as they are now
  bool weights_are_known_ = false;    // their largest magnitudes, by the update
  int64_t moves_ = 0;
  std::vector<at::Tensor> scratch_;  // uint8
};

}  // namespace train_sft
