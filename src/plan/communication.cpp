#include "train_sft/plan/communication.h"

#include <algorithm>

#include "train/gradient_reduction.h"

namespace train_sft {

double reduce_scatter_bytes(double bytes, int64_t ranks) {
  return bytes * static_cast<double>(ranks - 1) / static_cast<double>(ranks);
}

double all_gather_bytes(double bytes, int64_t ranks) {
  return reduce_scatter_bytes(bytes, ranks);
}

double all_reduce_bytes(double bytes, int64_t ranks) {
  return reduce_scatter_bytes(bytes, ranks) + all_gather_bytes(bytes, ranks);
}

std::optional<double> ring_ms(double sent_bytes, const Cluster& cluster, const Links& links) {
  double seconds = 0;
  const auto use = [&](bool used, double bytes_per_s) {
    if (used) seconds = std::max(seconds, sent_bytes / bytes_per_s);
    return !used || bytes_per_s > 0;
  };
  const bool known = use(cluster.devices > 1, links.device_bytes_per_s) &&
                     use(cluster.nodes > 1, links.node_bytes_per_s);
  if (!known) return std::nullopt;
  return seconds * 1e3;
}

std::vector<GradientRange> gradient_ranges(const ModelConfig& model, const ParameterLayout& layout,
                                           double bytes, int64_t least_numel) {
  using Reduction = GradientReduction;
  const auto reduced = Reduction::ranges_of(layout, least_numel);
  std::vector<GradientRange> ranges;
  for (const auto& range : reduced) ranges.push_back({bytes * static_cast<double>(range.numel), 0});
  for (const ParameterInfo& parameter : layout.parameters) {
    if (parameter.shape.size() != 2 || parameter.layer < 0) continue;
    // Below the lowest of them nothing is learned, and no backward computed.
    const auto in = std::find_if(reduced.begin(), reduced.end(),
                                 [&](const auto& range) { return range.layer <= parameter.layer; });
    if (in != reduced.end())
      ranges[static_cast<size_t>(in - reduced.begin())].backward_work +=
          static_cast<double>(parameter.numel);
  }
  // The head's product is the largest single one; tied, its weights are the embedding's, whose
  // gradient is complete only at the end.
  if (!ranges.empty())
    ranges[0].backward_work += static_cast<double>(model.vocab_size * model.n_embd);
  return ranges;
}

double exposed_ms(const std::vector<GradientRange>& ranges, double backward_ms,
                  double reduction_ms) {
  double work = 0, bytes = 0;
  for (const GradientRange& range : ranges) {
    work += range.backward_work;
    bytes += range.bytes;
  }
  if (work == 0 || bytes == 0) return reduction_ms;
  double computed = 0, reduced = 0;
  for (const GradientRange& range : ranges) {
    computed += backward_ms * range.backward_work / work;
    if (range.bytes == 0) continue;
    reduced = std::max(reduced, computed) + reduction_ms * range.bytes / bytes;
  }
  return std::max(0.0, reduced - backward_ms);
}

Communication predict_communication(const CommunicationRequest& request) {
  const int64_t ranks = request.cluster.ranks();
  double gradients = 0;
  for (const GradientRange& range : request.ranges) gradients += range.bytes;
  const double reduced =
      request.sharded ? reduce_scatter_bytes(gradients, ranks) : all_reduce_bytes(gradients, ranks);
  const double gathered = request.sharded ? all_gather_bytes(request.gathered_bytes, ranks) : 0;
  Communication result;
  result.sent_bytes = reduced + gathered;
  result.node_sent_bytes = request.cluster.nodes > 1 ? result.sent_bytes : 0;
  const auto reduce_ms = ring_ms(reduced, request.cluster, request.links);
  const auto gather_ms = ring_ms(gathered, request.cluster, request.links);
  if (!reduce_ms || !gather_ms) return result;
  result.ms = *reduce_ms + *gather_ms;
  result.exposed_ms = exposed_ms(request.ranges, request.last_backward_ms, *reduce_ms) + *gather_ms;
  return result;
}

}  // namespace train_sft
