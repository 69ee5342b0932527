// What a run would do: pure arithmetic on settings and sizes, and a few measured steps. The JSON
// keys are a contract: see "plan" in docs/architecture.md.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/config/options.h"
#include "train_sft/plan/data_size.h"
#include "train_sft/plan/device_table.h"

namespace train_sft {

struct PlanRequest {
  Settings settings;
  DataSize size;
  const PlannedData* data = nullptr;   // when files were read: real micro-batches are measured
  std::optional<Devices> on;           // of each node; none: this machine's CPU
  int64_t processes = 1;               // of a node that a start here has
  int64_t nodes = 1;                   // settings.config.gpus counts for all of them
  std::optional<double> link_gbps;     // Gbit/s from each device to the others of its node
  std::optional<double> network_gbps;  // Gbit/s from each node to the others
  int64_t probe_steps = 3;             // 0: no time is measured
  std::optional<double> expect_steps_per_s;  // a claim to be checked against the peak
  std::optional<double> deadline_s;          // from now
  uint64_t program_bytes = 0;                // resident before anything was loaded
};

// Throws UsageError for settings that contradict each other, and what reading a model throws.
Json make_plan(const PlanRequest& request);

// For people.
std::string describe_plan(const Json& plan);
// Several plans side by side: a row a figure, a column a plan; only rows that differ, and the
// length.
std::string describe_comparison(const std::vector<std::pair<std::string, Json>>& plans);

// Seconds: "8h", "90m", "2d", "45s", or the time until "2026-12-01 08:00". Throws UsageError.
double parse_deadline(const std::string& text);

}  // namespace train_sft
