// A run's communication: its processes and links from the request, its sizes from the model.
#include <fmt/format.h>

#include <algorithm>

#include "plan/facts.h"
#include "train/gradient_reduction.h"
#include "train/optimizer_shards.h"
#include "train/step_calls.h"

namespace train_sft {
namespace {

constexpr double kBytesPerGigabit = 1e9 / 8;

Links links_of(const PlanRequest& request, const Cluster& cluster) {
  Links links;
  if (request.on) {
    links.device_bytes_per_s = request.on->device.links.device_bytes_per_s;
    links.node_bytes_per_s =
        request.on->device.links.adapter_bytes_per_s * static_cast<double>(cluster.devices);
  }
  if (request.link_gbps) links.device_bytes_per_s = *request.link_gbps * kBytesPerGigabit;
  if (request.network_gbps) links.node_bytes_per_s = *request.network_gbps * kBytesPerGigabit;
  return links;
}

// Where the speeds of the links that are used come from.
std::string links_basis(const PlanRequest& request, const Cluster& cluster) {
  const auto one = [&](const char* what, const char* option, bool given, double known) {
    if (given) return fmt::format("{}: as given", what);
    if (known > 0) return fmt::format("{}: {}", what, request.on->device.links.source);
    return fmt::format("{}: not known and its time not counted; give --{}", what, option);
  };
  const DeviceLinks none;
  const DeviceLinks& table = request.on ? request.on->device.links : none;
  std::string basis;
  if (cluster.devices > 1)
    basis = one("link", "link_gbps", request.link_gbps.has_value(), table.device_bytes_per_s);
  if (cluster.nodes > 1)
    basis +=
        (basis.empty() ? "" : "; ") +
        one("network", "network_gbps", request.network_gbps.has_value(), table.adapter_bytes_per_s);
  return basis;
}

// Forward and backward of a micro-batch; two thirds of it are the backward.
double last_backward_ms(const PlanFacts& facts) {
  const double micro_batches = static_cast<double>(facts.batch.grad_accum * facts.batch.ranks) /
                               static_cast<double>(facts.cluster.ranks());
  return facts.time.step_ms * 2 / 3 / std::max(1.0, micro_batches);
}

// A step's calls, as the run will make them.
std::vector<StepCall> calls_of(const PlanFacts& facts, const ParameterLayout& layout) {
  return step_calls(layout, facts.sharded(), facts.precision != "fp32", reduce_type(facts.config()),
                    amax_count(facts.model, facts.config(), facts.precision));
}

Json calls_json(const PlanFacts& facts) {
  const ParameterLayout layout = parameter_layout(facts.model, training_of(facts.config()));
  Json calls = Json::array();
  for (const StepCall& call : calls_of(facts, layout))
    calls.push_back(
        {{"call", call.call}, {"name", call.name}, {"bytes", call.bytes}, {"after", call.after}});
  return calls;
}

}  // namespace

Cluster cluster_of(const PlanRequest& request) {
  return {request.on ? request.on->count : request.processes, request.nodes};
}

double largest_shard(const PlanFacts& facts) {
  const ParameterLayout layout = parameter_layout(facts.model, training_of(facts.config()));
  const ShardLimits limits = shard_limits(layout, static_cast<int>(facts.cluster.ranks()));
  int64_t largest = 0;
  for (size_t rank = 1; rank < limits.size(); ++rank)
    largest = std::max(largest, limits[rank] - limits[rank - 1]);
  return static_cast<double>(largest) / static_cast<double>(layout.trained_total);
}

bool shares_masters(const PlanFacts& facts) {
  const ParameterLayout layout = parameter_layout(facts.model, training_of(facts.config()));
  return facts.sharded() && shares_masters(layout, facts.precision != "fp32");
}

void plan_communication(PlanFacts& facts) {
  if (facts.cluster.ranks() == 1) return;
  const ParameterLayout layout = parameter_layout(facts.model, training_of(facts.config()));
  CommunicationRequest request;
  request.cluster = facts.cluster;
  request.links = links_of(facts.request, facts.cluster);
  const auto element = static_cast<double>(c10::elementSize(reduce_type(facts.config())));
  request.ranges = gradient_ranges(facts.model, layout, element, GradientReduction::kLeastNumel);
  request.sharded = facts.sharded();
  for (const StepCall& call : calls_of(facts, layout))
    if (call.call == "all_gather") request.gathered_bytes += static_cast<double>(call.bytes);
  request.last_backward_ms = last_backward_ms(facts);
  facts.communication = predict_communication(request);
  if (facts.time.step_ms > 0) facts.time.step_ms += facts.communication->exposed_ms;
}

Json communication_json(const PlanFacts& facts) {
  if (!facts.communication) return {};
  const Communication& communication = *facts.communication;
  const Links links = links_of(facts.request, facts.cluster);
  const auto known = [](bool is_known, double value) { return is_known ? Json(value) : Json(); };
  const double step_ms = facts.time.step_ms;
  const double compute_ms = step_ms - communication.exposed_ms;
  const bool timed = communication.ms.has_value() && step_ms > 0;
  const auto gbps = [&](bool used, double bytes_per_s) {
    return known(used && bytes_per_s > 0, bytes_per_s / kBytesPerGigabit);
  };
  return {{"ranks", facts.cluster.ranks()},
          {"devices_per_node", facts.cluster.devices},
          {"nodes", facts.cluster.nodes},
          {"reduce_dtype", reduce_type(facts.config()) == at::kBFloat16 ? "bf16" : "fp32"},
          {"shard", facts.config().shard},
          {"optimizer_bytes_sharded", facts.optimizer_bytes * largest_shard(facts)},
          {"calls", calls_json(facts)},
          {"sent_bytes", communication.sent_bytes},
          {"node_sent_bytes", communication.node_sent_bytes},
          {"link_gbps", gbps(facts.cluster.devices > 1, links.device_bytes_per_s)},
          {"network_gbps", gbps(facts.cluster.nodes > 1, links.node_bytes_per_s)},
          {"links_basis", links_basis(facts.request, facts.cluster)},
          {"communication_ms", known(communication.ms.has_value(), communication.ms.value_or(0))},
          {"compute_ms", known(step_ms > 0, compute_ms)},
          {"exposed_ms", known(timed, communication.exposed_ms)},
          {"scaling_efficiency", known(timed, compute_ms / step_ms)}};
}

}  // namespace train_sft
