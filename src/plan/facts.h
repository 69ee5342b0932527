// What the parts of a plan are worked out from.
#pragma once

#include "train_sft/config/parameter_layout.h"
#include "train_sft/config/run_shape.h"
#include "train_sft/plan/communication.h"
#include "train_sft/plan/plan.h"
#include "train_sft/plan/step_time.h"
#include "train_sft/train/memory_plan.h"

namespace train_sft {

struct PlanFacts {
  const PlanRequest& request;
  ModelConfig model{};
  BatchShape batch{};
  RunShape run{};
  std::string precision{};
  int64_t threads = 1;
  int64_t params = 0;
  int64_t checkpoints = 0;
  int64_t evaluations = 0;
  uint64_t storage_bytes = 0;
  uint64_t free_disk_bytes = 0;
  uint64_t available_memory = 0;  // of the device
  uint64_t max_memory = 0;        // what the run may use of it
  int64_t micro_rows = 0;         // computed at once
  MemoryPlace place{};
  MemoryPlan memory{};
  int64_t micro_batch_tokens = 0;  // of the largest
  int64_t largest_batch = 0;
  double flops_per_step = 0;
  StepTime time{};
  Cluster cluster{};
  std::optional<Communication> communication{};  // none: one process
  double optimizer_bytes = 0;                    // of its state, were it not shared
  double evaluation_s = 0;                       // one
  double total_s = 0;                            // 0: not known

  const TrainConfig& config() const { return request.settings.config; }
  const DataSize& size() const { return request.size; }
  bool starts_from_weights() const {
    return !config().pretrained_model.empty() || !config().resume.empty();
  }
  bool sharded() const { return config().shard == "optimizer" && cluster.ranks() > 1; }
  double tokens_total() const { return run.epochs() * static_cast<double>(size().tokens); }
};

Cluster cluster_of(const PlanRequest& request);
// With --shard optimizer: the part of its state that the rank with the most of it keeps.
double largest_shard(const PlanFacts& facts);
bool shares_masters(const PlanFacts& facts);  // too
// Predicts what the processes send each other, and adds what it costs to the step's time.
void plan_communication(PlanFacts& facts);
// Of plan["communication"]; null for one process.
Json communication_json(const PlanFacts& facts);

// [{id, text, evidence}]
Json plan_warnings(const PlanFacts& facts);

}  // namespace train_sft
