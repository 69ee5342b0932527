// The optimizer over flat buffers: AdamW (Loshchilov & Hutter 2019, decoupled decay on matrices
// only) in one pass that folds in 1/denominator and the clip factor and refreshes the compute copy.
// With `muon` the matrices of the blocks are updated by Muon instead (ops/muon.h): q, k, v and
// gate, up each for itself, also where one parameter holds several. Embeddings, head, norms, biases
// and LoRA's adapters stay AdamW's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "train_sft/config/train_config.h"
#include "train_sft/model/engine.h"
#include "train_sft/model/parameters.h"
#include "train_sft/ops/adamw.h"
#include "train_sft/ops/device_state.h"
#include "train_sft/ops/muon.h"

namespace train_sft {

class GraphCache;  // model/graph_cache.h

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, grad_clip = 1.0;
  bool muon = false;
};

OptimizerOptions optimizer_options(const TrainConfig& config);

// Whether Muon updates this parameter, when it is asked for.
bool is_muons(const ParameterInfo& parameter);
// The matrices in it: GPT-2 keeps q, k and v side by side in one parameter [in, 3 out].
std::vector<ops::MuonShape> muon_matrices(const ParameterInfo& parameter);
// In elements: of parameters without a second moment, and of scratch for the largest matrix.
struct MuonMemory {
  int64_t without_second_moment = 0, scratch = 0;
};
MuonMemory muon_memory(const ParameterLayout& layout);

class Optimizer {
 public:
  Optimizer(Parameters& parameters, const OptimizerOptions& options);
  // Keeps the moments of a part and updates that alone.
  Optimizer(Parameters& parameters, const OptimizerOptions& options, TrainedPart part);
  ~Optimizer();

  struct Result {
    double grad_norm = 0;  // of gradient sums ÷ denominator, before clipping
    bool applied = false;  // false: non-finite norm; weights, moments and t untouched
  };
  // denominator: Σ weights of the step over all micro-batches and ranks; > 0.
  Result step(double lr, double denominator);
  // The two halves of a step, for a decision between them: the norm of gradient sums ÷ denominator,
  // and the update that takes that norm, which must be finite.
  double grad_norm(double denominator) const;
  double sum_of_squares() const;  // of the part's gradient sums
  void update(double lr, double denominator, double grad_norm);

  // On a device: queues the whole of it, where the norm, the clip factor and whether to skip are
  // worked out too, and returns the ticket of its result. `sums`, in the device's memory, are those
  // of the step; they are zero afterwards. Replayed as a graph once it has been seen. of_this_step:
  // lr and the limits. t_is_known: no update is queued whose result was not fetched. weights: whose
  // largest magnitudes are found on the way; each must be covered.
  uint64_t queue_update(ops::DeviceSums* sums, const ops::DeviceUpdate& of_this_step,
                        bool t_is_known, const std::vector<WeightAmax>& weights = {});
  // Whether an update of AdamW's writes all of each of them or nothing of it.
  bool covers(const std::vector<WeightAmax>& weights) const;
  // Waits for that update, not for what was queued after it; sets t.
  ops::DeviceUpdate fetch_update(uint64_t ticket);

  bool has_second_moment(const ParameterInfo& parameter) const {
    return !options_.muon || !is_muons(parameter);
  }
  bool updates(const ParameterInfo& parameter) const {
    return parameter.trained_offset >= part_.first && parameter.trained_offset < part_.end;
  }
  at::Tensor& exp_avg() { return exp_avg_; }  // [trained_total or the part]; Muon's momentum
  // Likewise; with Muon of AdamW's parameters alone.
  at::Tensor& exp_avg_sq() { return exp_avg_sq_; }
  // A parameter's place in them.
  at::Tensor first_moment(const ParameterInfo& parameter) const;
  at::Tensor second_moment(const ParameterInfo& parameter) const;
  // Between an optimizer on a device and one on the CPU, of the same parameters.
  void copy_moments(const Optimizer& other);
  Optimizer of(Parameters& host) const;
  int64_t t = 0;  // updates applied

 private:
  // Neighbouring parameters with the same decay are updated as one.
  struct Range {
    int64_t offset, trained_offset, master_offset, numel;
    bool decay;
    int64_t second_offset = 0;  // in exp_avg_sq_
    at::Tensor amax{};          // of a weight
  };
  struct Matrix {
    int64_t offset, trained_offset, master_offset;  // of the parameter it is, or is a part of
    ops::MuonShape shape;
  };
  struct Views {
    at::Tensor master, compute, grad, exp_avg, exp_avg_sq;  // compute undefined: none apart
  };
  Views views(const Range& range);
  Views views(const Matrix& matrix);                                        // without exp_avg_sq
  std::vector<Range> cut_at(const std::vector<WeightAmax>& weights) const;  // ranges_
  ops::UpdateSettings settings() const;
  void upload(const ops::AdamWStep& pass);
  void add_matrices(const ParameterInfo& parameter);
  int64_t place_second_moments();
  ops::AdamWStep adamw_step(double lr, double grad_scale) const;
  void adamw(ops::AdamWStep pass);          // of ranges_
  void muon(double lr, double grad_scale);  // of matrices_
  // On a device, as device_update_ says.
  void device_adamw(const std::vector<Range>& ranges);
  void device_muon();

  Parameters& parameters_;
  OptimizerOptions options_;
  TrainedPart part_;
  std::vector<Range> ranges_;
  std::vector<Matrix> matrices_;
  at::Tensor scratch_;  // of Muon, of the dtype it multiplies in
  at::Tensor exp_avg_, exp_avg_sq_;
  // Of a device.
  at::Tensor device_update_;               // ops::DeviceUpdate and a sum; undefined on the CPU
  std::unique_ptr<GraphCache> graphs_;     // of the update
  const ops::DeviceSums* sums_ = nullptr;  // that its graph points to
};

}  // namespace train_sft
