#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"
#include "train_sft/model/decoder.h"

namespace train_sft {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};

// Likelier first; a total order, so that every selection below has one outcome.
bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}
bool less_likely(const Candidate& a, const Candidate& b) {
  return likelier(b, a);
}

std::vector<Candidate> candidates_of(std::span<const float> logits) {
  std::vector<Candidate> all;
  all.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    if (std::isnan(logits[id])) throw DivergedError("the model's logits are not numbers");
    if (logits[id] == std::numeric_limits<float>::infinity())
      throw DivergedError("the model's logits are infinite");
    if (std::isfinite(logits[id])) all.push_back({logits[id], static_cast<int32_t>(id)});
  }
  if (all.empty()) throw DivergedError("the model gives no token a finite logit");
  return all;
}

// Keeps the k likeliest.
void keep_top_k(std::vector<Candidate>& candidates, int64_t k) {
  if (k <= 0 || static_cast<size_t>(k) >= candidates.size()) return;
  std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), likelier);
  candidates.resize(static_cast<size_t>(k));
}

}  // namespace

int32_t sample(std::span<const float> logits, const SamplingOptions& options, uint64_t draw) {
  std::vector<Candidate> candidates = candidates_of(logits);
  const Candidate best = *std::min_element(candidates.begin(), candidates.end(), likelier);
  if (options.temperature <= 0) return best.id;
  keep_top_k(candidates, options.top_k);

  const auto mass = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - static_cast<double>(best.logit)) /
                    options.temperature);
  };
  // In id order, whatever the selection left: the same sum on any standard library.
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  double total = 0;
  for (const Candidate& c : candidates) total += mass(c);

  if (options.top_p < 1) {
    // The likeliest whose probabilities reach top_p, the one that crosses it included. A heap: few
    // of a large vocabulary are looked at.
    std::make_heap(candidates.begin(), candidates.end(), less_likely);
    std::vector<Candidate> nucleus;
    double sum = 0;
    for (auto end = candidates.end(); end != candidates.begin(); --end) {
      std::pop_heap(candidates.begin(), end, less_likely);
      nucleus.push_back(*(end - 1));
      sum += mass(nucleus.back());
      if (sum >= options.top_p * total) break;
    }
    candidates = std::move(nucleus);
    total = sum;
  }

  double target = CounterRng(options.seed, hash_string("sample")).uniform(draw) * total;
  for (const Candidate& c : candidates) {
    target -= mass(c);
    if (target < 0) return c.id;
  }
  return candidates.back().id;
}

}  // namespace train_sft
