#include "train/step_profile.h"

#include "train_sft/base/log.h"
#include "train_sft/base/profile.h"

namespace train_sft {

StepOutcome StepProfile::take_step(Run& run, bool may_begin_next) {
  const bool measured = wanted_ && !first_;
  first_ = false;
  profile::measure(measured);
  StepOutcome outcome = train_sft::take_step(run, may_begin_next && !wanted_);
  profile::measure(false);
  if (measured && !outcome.interrupted) {
    ++steps_;
    ms_ += outcome.step_ms;
  }
  return outcome;
}

Json StepProfile::json() const {
  if (steps_ == 0) return {};
  const auto steps = static_cast<double>(steps_);
  Json ops = Json::array();
  double accounted = 0;
  for (const profile::Entry& entry : profile::entries()) {
    accounted += entry.ms;
    ops.push_back({{"name", entry.name},
                   {"calls", static_cast<double>(entry.calls) / steps},
                   {"ms", entry.ms / steps},
                   {"share", entry.ms / ms_}});
  }
  return {{"steps", steps_},
          {"step_ms", ms_ / steps},
          {"accounted", accounted / ms_},
          {"ops", std::move(ops)}};
}

void StepProfile::say() const {
  const Json profile = json();
  if (profile.is_null()) return;
  log::info("time of a step, mean of {}: {:.2f} ms, of which {:.1f} % by op:", steps_,
            profile["step_ms"].get<double>(), 100 * profile["accounted"].get<double>());
  for (const Json& op : profile["ops"])
    log::info("  {:32} {:9.3f} ms {:5.1f} %  {:7.1f} calls", op["name"].get<std::string>(),
              op["ms"].get<double>(), 100 * op["share"].get<double>(), op["calls"].get<double>());
}

}  // namespace train_sft
