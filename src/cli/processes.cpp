#include "cli/processes.h"

#include <algorithm>

#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"
#include "train_sft/collective/join.h"
#include "train_sft/dist/environment.h"
#include "train_sft/dist/launch.h"
#include "train_sft/ops/load_device.h"

namespace train_sft::cli {
namespace {

void check_launcher(const Settings& settings, const ProcessPlace& place) {
  if (settings.config.procs == 1 || place.launcher == kOwnLauncher) return;
  throw UsageError(
      "procs: {} ({}) contradicts {}, which has started {} processes; leave out --procs, or start "
      "train_sft without {}",
      settings.config.procs, settings.source.at("procs"), place.launcher, place.world_size,
      place.launcher);
}

void require_gloo(const Settings& settings, int64_t processes) {
  if (has_gloo()) return;
  const char* option = settings.config.procs > 1 ? "procs" : "gpus";
  throw UsageError(
      "{}: {} processes, but the program was built without Gloo; install libgloo-dev "
      "(scripts/setup.sh does), run cmake again and build",
      option, processes);
}

}  // namespace

int64_t processes_of_start(const Settings& settings) {
  const TrainConfig& config = settings.config;
  if (config.procs > 1) return config.procs;
  const bool one_device = config.device != "auto" && config.device != "cuda";
  if (config.gpus == 1 || one_device) return 1;
  const int64_t devices = ops::count_devices(config.device);
  int64_t processes = std::clamp<int64_t>(devices, 1, config.gpus);
  while (config.gpus % processes != 0) --processes;
  return processes;
}

std::optional<Outcome> run_processes(const Invocation& invocation) {
  const TrainConfig& config = invocation.settings.config;
  if (const auto& place = invocation.surroundings.place()) {
    check_launcher(invocation.settings, *place);
    return std::nullopt;
  }
  const int64_t processes = processes_of_start(invocation.settings);
  if (processes == 1) {
    if (const std::string line = unused_tasks(); !line.empty()) log::warning("{}", line);
    return std::nullopt;
  }
  require_gloo(invocation.settings, processes);
  signals::throw_if_stopped();
  Launch request;
  request.program = program_path();
  request.words = invocation.words;
  request.processes = static_cast<int>(processes);
  request.keep_stdout = config.json;
  const LaunchResult result = launch(request);
  if (!result.failure.empty()) throw Error(ExitCode{result.exit_code}, result.failure);
  Outcome outcome{ExitCode{result.exit_code}, Json::object()};
  if (config.json && !result.output.empty())
    outcome.result = parse_json(result.output, "the output of rank 0");
  return outcome;
}

}  // namespace train_sft::cli
