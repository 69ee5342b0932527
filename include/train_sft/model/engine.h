// Explicit forward and backward of a decoder-only transformer over a planned arena: no autograd,
// and no tensor storage allocated once the arena has seen its largest micro-batch.
//
// References: GPT-2 (Radford et al. 2019), Llama (Touvron et al. 2023) as in transformers'
// modeling_gpt2.py and modeling_llama.py, with which logits and gradients agree.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "train_sft/config/fp8_settings.h"
#include "train_sft/config/recompute.h"
#include "train_sft/data/batch.h"
#include "train_sft/model/parameters.h"
#include "train_sft/ops/cross_entropy.h"

namespace train_sft {

// Linear layers with 8-bit operands.
struct Fp8Options {
  bool on = false;
  int64_t history = 16;        // steps whose largest magnitude sets a scale; 1: that of the moment
  double margin = 0;           // powers of two to spare
  bool e5m2_gradients = true;  // or e4m3
  bool weight_gradient = false;  // of 8-bit operands, too
  Bf16Linears bf16{};  // which are left as they are: by default the first and last block's
};

// Of neighbouring weights in Parameters::compute(): amax [1] float, which an update raises to their
// largest magnitude.
struct WeightAmax {
  int64_t offset = 0, numel = 0;
  at::Tensor amax;
};

struct EngineOptions {
  double dropout = 0.0;  // after the embedding, and after each attention and feed-forward output
  uint64_t seed = 0;     // of dropout
  Recompute recompute = Recompute::none;  // less arena for more time; the same bits
  int64_t max_tokens = 0;  // of a micro-batch, to plan the arena; grows when exceeded
  // The arena's memory goes back to the system as the backward goes, as much of it as gradients
  // take in turn: for steps of one micro-batch after Parameters::drop_gradients().
  bool gives_way = false;
  bool graphs = true;  // on a device: micro-batches of a shape seen before are replayed
  Fp8Options fp8;
  int64_t loss_scratch = ops::kLossScratchBytes;  // bytes of logits at a time
  uint64_t max_arena_bytes = 0;  // 0: no limit; over it a ResourceError says what was needed
};

struct LossSums {
  double loss = 0;      // Σ weight × −log p(target), over learned targets
  double weight = 0;    // Σ weight
  int64_t tokens = 0;   // learned targets
  int64_t correct = 0;  // learned targets that were the arg max
};

class Engine {
 public:
  // Computes in parameters.compute()'s dtype: float and bfloat16 run the fast kernels, double the
  // ops' plain references. Keeps a reference to parameters.
  Engine(Parameters& parameters, const EngineOptions& options);
  ~Engine();

  // Adds the gradient of this micro-batch's *sum* of weighted losses to parameters.gradients().
  // Dropout is keyed by (seed, step, example id, position, layer): it does not depend on how rows
  // were cut into micro-batches. layer_done(l) is called when the gradients of layer l and of all
  // above it are complete (with n_layer: those of what stands on top of the layers): not for every
  // batch (one that learns nothing), nor for every layer.
  //
  // Computes where the parameters are. On a device nothing is waited for: weight and tokens are
  // returned, loss and the rest are added to device_sums() there. ResourceError when memory runs
  // out, there also after gradients were added to.
  using LayerDone = std::function<void(int64_t layer)>;
  LossSums forward_backward(const Batch& batch, uint64_t step, const LayerDone& layer_done = {});
  // No dropout, no gradient. Waits for a device.
  LossSums evaluate(const Batch& batch);
  // [N, vocab] in the compute dtype, for tests and scoring; the one place where logits exist whole.
  at::Tensor logits(const Batch& batch);

  // [2, ops::DeviceSums] in double on a device, of which the first are of training: they begin with
  // 0, and whoever reads them zeroes them. Undefined on the CPU.
  const at::Tensor& device_sums() const;
  // Waits for them and zeroes them. Nothing on the CPU, where forward_backward() returned them.
  LossSums take_sums();
  void drop_sums();  // zeroes them without waiting
  // After each step's last micro-batch: 8-bit scales for the next one. Evaluation uses none. With
  // weights_known the update that follows is given weight_amax().
  void end_step(bool weights_known = false);
  std::vector<WeightAmax> weight_amax() const;  // of weights with 8-bit operands
  // The largest magnitudes, one a tensor, from which end_step() makes scales, where the parameters
  // are: of what this process computed since the last one. Undefined where none are remembered.
  at::Tensor fp8_amax() const;
  // What a resume needs of them, by name, where the parameters are; empty without. restored_fp8()
  // after they were written to.
  std::vector<std::pair<std::string, at::Tensor>> fp8_state() const;
  void restored_fp8();
  // Gives activations back and forgets how large micro-batches were: for smaller ones, when memory
  // ran out.
  void release_memory();

  uint64_t arena_bytes() const;
  bool gives_way() const;
  // What training would plan for a micro-batch of so many tokens, all learned. Allocates nothing.
  static uint64_t planned_arena_bytes(const ModelConfig& config, at::ScalarType compute,
                                      bool dropout, Recompute recompute, int64_t tokens,
                                      const Training& training = {},
                                      int64_t loss_scratch = ops::kLossScratchBytes);
  // Of gradients: what stands beside the whole arena at most when it gives way.
  static uint64_t planned_gradient_bytes(const ModelConfig& config, at::ScalarType compute,
                                         bool dropout, Recompute recompute, int64_t tokens,
                                         const Training& training = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace train_sft
