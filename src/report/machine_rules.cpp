#include <fmt/format.h>

#include <array>

#include "report/sign_rules.h"
#include "report/statistics.h"
#include "train_sft/base/progress.h"

namespace train_sft {
namespace {

constexpr double kDataWait = 0.1;         // of a step
constexpr double kThroughputDrop = 0.7;   // of the best
constexpr double kDropSeconds = 20;       // for so long, or it was a hiccup
constexpr double kMemoryNearLimit = 0.9;  // of the limit

std::optional<Finding> data_wait(const History& history) {
  const auto& records = history.records();
  if (records.size() < kWindow) return std::nullopt;
  std::vector<double> shares;
  for (size_t i = records.size() - kWindow; i < records.size(); ++i)
    shares.push_back(records[i].step_ms > 0 ? records[i].data_wait_ms / records[i].step_ms : 0);
  const double share = median(shares);
  if (share <= kDataWait) return std::nullopt;
  return Finding{records[records.size() - kWindow].step,
                 fmt::format("{:.0f} % of a step is spent waiting for data ({:.1f} of {:.1f} ms)",
                             100 * share, history.last().data_wait_ms, history.last().step_ms),
                 "The model could be trained faster than its rows are made. Prepare the data once "
                 "(train_sft prepare), put it on a local disk, or give the program more cores."};
}

// Seconds of training between the record before the last kWindow and now.
double seconds_of_window(const std::vector<Record>& records) {
  double ms = 0;
  for (size_t i = records.size() - kWindow; i < records.size(); ++i)
    ms += records[i].step_ms * static_cast<double>(records[i].step - records[i - 1].step);
  return ms / 1000;
}

std::optional<Finding> throughput_dropping(const History& history) {
  const auto& records = history.records();
  const auto& best = history.highest_throughput();
  if (records.size() < 2 * kWindow || !best) return std::nullopt;
  const std::vector<double> speeds = history.last_values(&Record::tokens_per_s, kWindow);
  const double now = speeds.size() == kWindow ? median(speeds) : best->median;
  if (now >= kThroughputDrop * best->median || seconds_of_window(records) < kDropSeconds)
    return std::nullopt;
  return Finding{
      records[records.size() - kWindow].step,
      fmt::format("{} tokens a second, {:.0f} % of the {} around step {}", human_count(now),
                  100 * now / best->median, human_count(best->median), best->step),
      "Something takes the machine away: another program, heat, swapping or a slow disk. "
      "Look at top and the clock rate; training itself goes on unchanged."};
}

std::optional<Finding> memory_near_limit(const History& history) {
  const Record& now = history.last();
  if (now.memory_limit_bytes == 0) return std::nullopt;
  const double used = static_cast<double>(now.memory_bytes),
               limit = static_cast<double>(now.memory_limit_bytes);
  if (used <= kMemoryNearLimit * limit) return std::nullopt;
  return Finding{now.step,
                 fmt::format("{} in use, {:.0f} % of the {} this process can have",
                             human_bytes(used), 100 * used / limit, human_bytes(limit)),
                 "The system may end the run at any moment. Lower batch_size and raise grad_accum "
                 "by the same factor (the result is the same), or close other programs."};
}

constexpr std::array<SignRule, 3> kMachineRules = {{
    {"data_wait", Sign::Level::warning, data_wait},
    {"throughput_dropping", Sign::Level::warning, throughput_dropping},
    {"memory_near_limit", Sign::Level::warning, memory_near_limit},
}};

}  // namespace

std::span<const SignRule> machine_rules() {
  return kMachineRules;
}

}  // namespace train_sft
