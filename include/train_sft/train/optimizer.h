// AdamW (Loshchilov & Hutter 2019, decoupled decay on matrices only) over flat buffers: one pass
// that folds in 1/denominator and the clip factor and refreshes the compute copy.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "train_sft/model/parameters.h"

namespace train_sft {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, grad_clip = 1.0;
};

class AdamW {
 public:
  AdamW(Parameters& parameters, const AdamWOptions& options);

  struct Result {
    double grad_norm = 0;  // of gradient sums ÷ denominator, before clipping
    bool applied = false;  // false: non-finite norm; weights, moments and t untouched
  };
  // denominator: Σ weights of the step over all micro-batches and ranks; > 0.
  Result step(double lr, double denominator);
  // The two halves of a step, for a decision between them: the norm of gradient sums ÷ denominator,
  // and the update that takes that norm, which must be finite.
  double grad_norm(double denominator) const;
  void update(double lr, double denominator, double grad_norm);

  at::Tensor& exp_avg() { return exp_avg_; }        // [trained_total]
  at::Tensor& exp_avg_sq() { return exp_avg_sq_; }  // [trained_total]
  int64_t t = 0;                                    // updates applied

 private:
  // Neighbouring parameters with the same decay are updated as one.
  struct Range {
    int64_t offset, trained_offset, master_offset, numel;
    bool decay;
  };

  Parameters& parameters_;
  AdamWOptions options_;
  std::vector<Range> ranges_;
  at::Tensor exp_avg_, exp_avg_sq_;
};

}  // namespace train_sft
